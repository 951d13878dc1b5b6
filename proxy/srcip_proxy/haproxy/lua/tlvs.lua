-- Reads what a PROXY header of version 2 says besides addresses (proxy-protocol.txt, section 2.2), as texts for HTTP
-- headers. Pure.

local M = {}

local LONGEST = 512 -- characters of a text; a longer one is left out

-- Printable ASCII as it is, all else percent-encoded: nothing can end a header or begin another.
local function text(value)
  local safe = value:gsub("[^\x21-\x24\x26-\x7e]", function(c)
    return c == " " and c or string.format("%%%02X", c:byte())
  end)
  safe = safe:gsub("^ +", ""):gsub(" +$", "")
  return safe ~= "" and #safe <= LONGEST and safe or nil
end

local TEXTS = { [0x01] = "alpn", [0x02] = "authority", [0x05] = "unique-id", [0x30] = "netns" }
local SSL_TEXTS = { [0x21] = "ssl-version", [0x22] = "ssl-cn", [0x23] = "ssl-cipher" }

local function each(data, take)
  local at = 1
  while at + 2 <= #data do
    local kind, size = string.unpack(">BI2", data, at)
    take(kind, data:sub(at + 3, at + 2 + size))
    at = at + 3 + size
  end
end

local READ = {}

READ[0x20] = function(value, out) -- PP2_TYPE_SSL: a byte of flags, four of the verification, then TLVs again
  if #value < 5 or value:byte(1) & 1 == 0 then return end -- PP2_CLIENT_SSL
  out.ssl = true
  each(value:sub(6), function(kind, inner)
    if SSL_TEXTS[kind] then out[SSL_TEXTS[kind]] = text(inner) end
  end)
end

-- Cloud endpoints: each has a byte that says which value follows.
READ[0xEA] = function(value, out) if value:byte(1) == 1 then out["aws-vpce-id"] = text(value:sub(2)) end end
READ[0xEE] = function(value, out)
  if #value == 5 and value:byte(1) == 1 then out["azure-link-id"] = tostring(string.unpack("<I4", value, 2)) end
end
READ[0xE0] = function(value, out)
  if #value == 8 then out["gcp-psc-connection-id"] = string.format("%u", string.unpack(">I8", value)) end
end

--- All that is known in these bytes, by name; `ssl` is true when the client came over TLS. The bytes are whole TLVs.
function M.read(data)
  local out = {}
  each(data, function(kind, value)
    if TEXTS[kind] then out[TEXTS[kind]] = text(value) end
    if READ[kind] then READ[kind](value, out) end
  end)
  return out
end

return M
