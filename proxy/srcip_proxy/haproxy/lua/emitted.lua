-- Writes the PROXY header that begins a connection to the application. Pure.

local protocol = require("proxy_protocol")

local M = {}

local SIGNATURE = "\r\n\r\n\0\r\nQUIT\n"
local NOOP, CRC32C = 0x04, 0x03
local MAPPED = string.rep("\0", 10) .. "\xff\xff"

-- Both addresses of one family: IPv4 inside IPv6 where they differ.
local function pair(client)
  local from, to = client.address, client.to
  if #from == 16 and #to == 4 then to = MAPPED .. to end
  if #to == 16 and to:sub(1, 12) == MAPPED and #from == 4 then to = to:sub(13) end
  if #from == 4 and #to == 16 then from = MAPPED .. from end
  return from, to
end

local function v1(client)
  local from, to = pair(client)
  return string.format("PROXY TCP%s %s %s %d %d\r\n", #from == 4 and "4" or "6", protocol.text(from), protocol.text(to),
    client.port, client.to_port)
end

-- The TLVs that came, without padding and without the checksum of the old header; whether there was one.
local function kept(data)
  local out, summed, at = {}, false, 1
  while at + 2 <= #data do
    local kind, size = string.unpack(">BI2", data, at)
    if kind == CRC32C then summed = true
    elseif kind ~= NOOP then out[#out + 1] = data:sub(at, at + 2 + size) end
    at = at + 3 + size
  end
  return table.concat(out), summed
end

local function v2(client, crc32c)
  local from, to = pair(client)
  local tlvs, summed = kept(client.tlvs or "")
  local body = from .. to .. string.pack(">I2I2", client.port, client.to_port) .. tlvs
  local function header(sum)
    local whole = sum and body .. string.pack(">BI2I4", CRC32C, 4, sum) or body
    return SIGNATURE .. string.pack(">BBI2", 0x21, #from == 4 and 0x11 or 0x21, #whole) .. whole
  end
  return summed and header(crc32c(header(0))) or header()
end

--- The header of `version` (v1 or v2) for a client: `address` and `to` as bytes, `port` and `to_port`, and the bytes of
--- all `tlvs`. A version 1 header has no room for TLVs.
function M.header(version, client, crc32c)
  if version == "v1" then return v1(client) end
  return v2(client, crc32c)
end

return M
