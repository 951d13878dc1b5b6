-- Which addresses the application listens on, by port: read from /proc/net/tcp and tcp6 (proc(5)).
-- Listening sockets come first there, so only a few lines are read; still the kernel may walk its whole table of
-- connections for them, some milliseconds, so answers are kept. Asked only for a client of the other IP version.

local M = {}

local LISTEN = "0A" -- TCP_LISTEN of include/net/tcp_states.h, as the kernel prints it
M.ANY4, M.ANY6 = string.rep("\0", 4), string.rep("\0", 16)
local KEEP_SECONDS = 5
local KEEP_MISS_SECONDS = 0.1 -- an application may begin to listen at any time: what was not found is asked anew

-- The kernel prints an address as native 32 bit words in hexadecimal.
local function bytes(hex)
  return (hex:gsub("%x%x%x%x%x%x%x%x", function(word) return string.pack("=I4", tonumber(word, 16)) end))
end

local function read(file, found)
  file:read("l")
  for line in file:lines() do
    local address, port, state = line:match("^ *%d+: (%x+):(%x+) %x+:%x+ (%x+)")
    if state ~= LISTEN then break end
    port = tonumber(port, 16)
    found[port] = found[port] or {}
    found[port][bytes(address)] = true
  end
  file:close()
end

local cache, read_at = {}, -KEEP_SECONDS

--- The set of addresses (4 or 16 bytes) that somebody listens on at `port`; empty when nobody does. With `anew`, for a
--- caller that has not found what it looked for, the answer is hardly older than now.
function M.on(port, anew)
  local clock = core.now()
  local now = clock.sec + clock.usec / 1e6
  if now - read_at >= (anew and KEEP_MISS_SECONDS or KEEP_SECONDS) then
    local found = {}
    read(assert(io.open("/proc/net/tcp")), found)
    local ipv6 = io.open("/proc/net/tcp6") -- is not there in a Pod without IPv6
    if ipv6 then read(ipv6, found) end
    cache, read_at = found, now
  end
  return cache[port] or {}
end

return M
