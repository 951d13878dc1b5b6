-- Which addresses lie in a list of networks. Pure.

local protocol = require("proxy_protocol")

local function bits_of(bytes)
  if #bytes == 4 then return { (string.unpack(">I4", bytes)) << 32 } end
  return { string.unpack(">I8I8", bytes) }
end

local function mask(length)
  if length <= 0 then return 0 end
  return length >= 64 and -1 or ~(-1 >> length)
end

local function network(text)
  local address, length = text:match("^([^/]+)/(%d+)$")
  local bytes = protocol.ipv4(address) or protocol.ipv6(address)
  local words = bits_of(bytes)
  return { size = #bytes, words = words, masks = { mask(tonumber(length)), mask(tonumber(length) - 64) } }
end

--- A function that tells whether an address of 4 or 16 bytes lies in one of these networks (with commas between).
return function(list)
  local all = {}
  for text in list:gmatch("[^,]+") do all[#all + 1] = network(text) end
  return function(bytes)
    local words = bits_of(bytes)
    for _, one in ipairs(all) do
      if one.size == #bytes and (words[1] ~ one.words[1]) & one.masks[1] == 0
        and (#bytes == 4 or (words[2] ~ one.words[2]) & one.masks[2] == 0) then
        return true
      end
    end
    return false
  end
end
