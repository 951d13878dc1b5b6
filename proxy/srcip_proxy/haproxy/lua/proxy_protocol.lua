-- Reads one PROXY protocol header, version 1 or 2, from the first bytes of a connection.
-- Pure: bytes in, verdict out. Written to https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, strictly:
-- what does not match exactly is refused, what is merely cut short is waited for.

local M = {}

local V1_SIGNATURE = "PROXY"
local V1_LONGEST = 107 -- bytes of a version 1 line with its CRLF (section 2.1)
local V2_SIGNATURE = "\r\n\r\n\0\r\nQUIT\n"
local V2_FIXED = 16 -- bytes before the address block (section 2.2)
local CRC32C = 0x03 -- PP2_TYPE_CRC32C (section 2.2.3)

-- Bytes of an address pair with its ports, by the high nibble of the family byte.
local PAIR_LENGTH = { [0] = 0, [1] = 12, [2] = 36, [3] = 216 }
local ADDRESS_LENGTH = { [1] = 4, [2] = 16 }
local STREAM = 1 -- low nibble of the family byte
local DATAGRAM = 2

-- Verdicts. Each is a table with `kind` and, where it consumes bytes, `length`.
local WAIT = { kind = "wait" }
local NONE = { kind = "none" }
local function refuse(reason, detail) return { kind = "refuse", reason = reason, detail = detail } end

local function decimal(text, largest)
  if not text:find("^%d%d?%d?%d?%d?$") or (#text > 1 and text:byte() == 48) then return nil end
  local number = tonumber(text)
  return number <= largest and number or nil
end

--- The four bytes of a dotted IPv4 address, or nil.
function M.ipv4(text)
  local bytes = {}
  for part, dot in (text .. "."):gmatch("([^.]*)(%.)") do
    bytes[#bytes + 1] = decimal(part, 255)
    if not bytes[#bytes] or dot == "" then return nil end
  end
  local _, dots = text:gsub("%.", "")
  if #bytes ~= 4 or dots ~= 3 then return nil end
  return string.char(table.unpack(bytes))
end

-- The bytes of `1:2:ab`; a dotted IPv4 address may stand last. nil when it is not that.
local function groups(text)
  if text == "" then return "" end
  local out = {}
  local front, dotted = text:match("^(.-):?(%d+%.[%d.]+)$")
  if dotted then
    local last = M.ipv4(dotted)
    if not last or (front ~= "" and text:sub(#front + 1, #front + 1) ~= ":") then return nil end
    local head = groups(front)
    return head and head .. last
  end
  for part in (text .. ":"):gmatch("([^:]*):") do
    if not part:find("^%x%x?%x?%x?$") then return nil end
    out[#out + 1] = string.pack(">I2", tonumber(part, 16))
  end
  return table.concat(out)
end

--- The sixteen bytes of an IPv6 address, or nil. No zone, no brackets.
function M.ipv6(text)
  local head, tail = text:match("^(.-)::(.*)$")
  if not head then
    local whole = groups(text)
    return whole and #whole == 16 and whole or nil
  end
  local front, back = groups(head), groups(tail)
  if head:find(".", 1, true) or not front or not back or #front + #back > 14 then return nil end
  return front .. string.rep("\0", 16 - #front - #back) .. back
end

local MAPPED = string.rep("\0", 10) .. "\xff\xff"

-- The longest run of zeros in eight words, at least two of them: where it begins and how many there are.
local function zeros(words)
  local from, most, at = 9, 1, 1
  while at <= 8 do
    local stop = at
    while words[stop] == 0 do stop = stop + 1 end
    if stop - at > most then from, most = at, stop - at end
    at = stop + 1
  end
  return from, most
end

--- An address of 4 or 16 bytes as text, in the form of RFC 5952.
function M.text(bytes)
  if #bytes == 4 then return string.format("%d.%d.%d.%d", bytes:byte(1, 4)) end
  if bytes:sub(1, 12) == MAPPED then return "::ffff:" .. M.text(bytes:sub(13)) end
  local words = { string.unpack(">I2I2I2I2I2I2I2I2", bytes) }
  local from, most = zeros(words)
  local function hex(first, last)
    local texts = {}
    for number = first, last do texts[#texts + 1] = string.format("%x", words[number]) end
    return table.concat(texts, ":")
  end
  if from == 9 then return hex(1, 8) end
  return hex(1, from - 1) .. "::" .. hex(from + most, 8)
end

--- IPv4 inside ::ffff:0:0/96 is IPv4: only so can it be a source for an IPv4 application.
function M.canonical(bytes)
  if bytes and #bytes == 16 and bytes:sub(1, 12) == MAPPED then return bytes:sub(13) end
  return bytes
end

local UNUSABLE = { [0] = "the unspecified network", [127] = "a loopback address" }

--- Why no client can have this address, or nil when one can.
function M.unusable(bytes)
  local first, second = bytes:byte(1, 2)
  if #bytes == 4 then
    if UNUSABLE[first] then return UNUSABLE[first] end
    if first >= 224 and first <= 239 then return "a multicast address" end
    if first == 169 and second == 254 then return "a link-local address" end
    if bytes == "\255\255\255\255" then return "the broadcast address" end
  else
    if bytes:find("^\0+[\0\1]$") then return "the unspecified or the loopback address" end
    if first == 255 then return "a multicast address" end
    if first == 254 and second >= 128 and second <= 191 then return "a link-local address" end
  end
  return nil
end

local function proxied(version, length, address, port, to, to_port)
  return { kind = "proxy", version = version, length = length, address = M.canonical(address), port = port,
    to = to, to_port = to_port }
end

local function unproxied(version, length) return { kind = "local", version = version, length = length } end

local function v1_line(line, length)
  if line == "PROXY UNKNOWN" or line:find("^PROXY UNKNOWN ") then return unproxied(1, length) end
  local family, source, destination, source_port, destination_port =
    line:match("^PROXY TCP([46]) ([^ ]+) ([^ ]+) ([^ ]+) ([^ ]+)$")
  if not family then return refuse("malformed", "not a version 1 line") end
  local address, port = (family == "4" and M.ipv4 or M.ipv6)(source), decimal(source_port, 65535)
  -- nginx names the address that it was reached at itself, whatever the family of a client that another proxy named
  local to, to_port = M.ipv4(destination) or M.ipv6(destination), decimal(destination_port, 65535)
  if not (address and port and to and to_port) then
    return refuse("malformed", "a version 1 line with a bad address or port")
  end
  return proxied(1, length, address, port, to, to_port)
end

local function v1(data)
  local stop = data:find("[\r\n]")
  if not stop then return #data >= V1_LONGEST and refuse("malformed", "no CRLF in 107 bytes") or WAIT end
  if stop >= V1_LONGEST then return refuse("malformed", "no CRLF in 107 bytes") end
  if stop == #data and data:byte(stop) == 13 then return WAIT end
  if data:sub(stop, stop + 1) ~= "\r\n" then return refuse("malformed", "a CR or LF alone") end
  return v1_line(data:sub(1, stop - 1), stop + 1)
end

-- Walks the TLVs from `at` to `stop`. Returns a refusal, or nil when they are whole.
local function check_tlvs(data, at, stop, crc32c)
  while at <= stop do
    if at + 2 > stop then return refuse("malformed", "a TLV is cut short") end
    local kind, size = string.unpack(">BI2", data, at)
    local value = at + 3
    at = value + size
    if at > stop + 1 then return refuse("malformed", "a TLV is longer than the header") end
    if kind == CRC32C then
      if size ~= 4 then return refuse("checksum", "a CRC32C TLV that is not 4 bytes") end
      local zeroed = data:sub(1, value - 1) .. "\0\0\0\0" .. data:sub(at, stop)
      if crc32c(zeroed) ~= string.unpack(">I4", data, value) then
        return refuse("checksum", "the CRC32C does not match")
      end
    end
  end
  return nil
end

local function v2_proxy(data, family, length, crc32c)
  local network, transport = family >> 4, family & 15
  local pair = PAIR_LENGTH[network]
  if not pair or transport > DATAGRAM then
    return refuse("malformed", string.format("family byte 0x%02x", family))
  end
  if length < V2_FIXED + pair then return refuse("malformed", "the address block is cut short") end
  local fault = length > V2_FIXED + pair and check_tlvs(data, V2_FIXED + pair + 1, length, crc32c)
  if fault then return fault end
  local size = ADDRESS_LENGTH[network]
  if not size or transport ~= STREAM then return unproxied(2, length) end
  local address, to = data:sub(V2_FIXED + 1, V2_FIXED + size), data:sub(V2_FIXED + size + 1, V2_FIXED + 2 * size)
  local port, to_port = string.unpack(">I2I2", data, V2_FIXED + 2 * size + 1)
  local verdict = proxied(2, length, address, port, to, to_port)
  verdict.tlvs = data:sub(V2_FIXED + pair + 1, length)
  return verdict
end

local function v2(data, limits)
  if #data < V2_FIXED then
    -- the version and command byte is refused as soon as it is there
    local early = data:byte(13)
    return early and early ~= 0x20 and early ~= 0x21 and refuse("malformed", "unknown version or command") or WAIT
  end
  local command, family, size = string.unpack(">BBI2", data, 13)
  if command ~= 0x20 and command ~= 0x21 then return refuse("malformed", "unknown version or command") end
  local length = V2_FIXED + size
  if length > limits.max_header then
    return refuse("too_long", string.format("%d bytes, allowed are %d", length, limits.max_header))
  end
  if #data < length then return WAIT end
  if command == 0x20 then return unproxied(2, length) end
  return v2_proxy(data, family, length, limits.crc32c)
end

-- Does `data` begin like `signature`, as far as both go?
local function begins(data, signature)
  local common = math.min(#data, #signature)
  return data:sub(1, common) == signature:sub(1, common)
end

--- The verdict on the first bytes of a connection. `limits` holds `max_header` (bytes), `versions` ({[1]=true, [2]=true})
--- and `crc32c` (bytes to number). Verdicts, by `kind`:
---   proxy   address (4 or 16 bytes) and port of the client, `to` and `to_port` where it connected to, the bytes of all
---           `tlvs` of a version 2 header; `length` bytes are the header
---   local   a valid header without an address: the connection's own address counts
---   wait    so far the beginning of a header
---   none    no header at all
---   refuse  `reason` (a word for the metrics) and `detail` (a few words for the log)
function M.parse(data, limits)
  local version = begins(data, V2_SIGNATURE) and 2 or begins(data, V1_SIGNATURE) and 1
  if not version then return NONE end
  if #data < (version == 2 and #V2_SIGNATURE or #V1_SIGNATURE) then return WAIT end
  if not limits.versions[version] then return refuse("version", "version " .. version .. " is not accepted here") end
  if version == 2 then return v2(data, limits) end
  return v1(data)
end

return M
