-- Reads hexadecimal lines, prints the verdict of the reader on each. Usage: lua5.4 parse.lua FOLDER-OF-THE-READER
package.path = arg[1] .. "/?.lua"
local protocol = require("proxy_protocol")

local function crc32c(data)
  local crc = 0xffffffff
  for i = 1, #data do
    crc = crc ~ data:byte(i)
    for _ = 1, 8 do crc = crc >> 1 ~ (crc & 1 == 1 and 0x82f63b78 or 0) end
  end
  return crc ~ 0xffffffff
end

local limits = { max_header = 4096, versions = { true, true }, crc32c = crc32c }

for line in io.lines() do
  local data = line:gsub("%x%x", function(hex) return string.char(tonumber(hex, 16)) end)
  local v = protocol.parse(data, limits)
  local out = { v.kind, v.address and protocol.text(v.address), v.address and v.port, v.length }
  local words = {}
  for i = 1, 4 do if out[i] then words[#words + 1] = tostring(out[i]) end end
  print(table.concat(words, " "))
end
