-- The way of a connection from its first backend, where the application has refused an IPv4 client, to a second one, where
-- it is shown the balancer (fallback.py). A random number that goes with the connection stands for what is known of it.

local M = {}

local MINUTE = 60

-- Entries by key, each for one minute at least and two at most: nobody may ever ask for one.
local function short_lived()
  local older, newer, since = {}, {}, os.time()
  return function(key, value)
    if os.time() - since >= MINUTE then older, newer, since = newer, {}, os.time() end
    if value ~= nil then newer[key] = value end
    local found = newer[key]
    if found == nil then found = older[key] end
    return found
  end
end

local known, lost = short_lived(), short_lived()

local urandom = assert(io.open("/dev/urandom", "rb"))
urandom:setvbuf("no")

-- Sixteen random bytes, in hexadecimal digits.
local function number()
  return (urandom:read(16):gsub(".", function(byte) return string.format("%02x", byte:byte()) end))
end

--- Notes `entry` for this connection, which leaves for the second way now.
function M.leave(txn, entry)
  local id = number()
  known(id, entry)
  txn:set_var("txn.srcip_fallback", id)
end

--- What was noted for the connection that has come on the second way; nil for any other. It is told once.
function M.arrive(txn)
  local id = txn:get_var("txn.srcip_fallback")
  local entry = id and known(id)
  if entry then known(id, false) end
  return entry or nil
end

--- The application has not taken this connection on the second way either.
function M.lose(txn)
  local id = txn:get_var("txn.srcip_fallback")
  if id then lost(id, true) end
end

core.register_fetches("srcip_is_lost", function(txn) return lost(txn:get_var("txn.srcip_fallback") or "") and 1 or 0 end)

return M
