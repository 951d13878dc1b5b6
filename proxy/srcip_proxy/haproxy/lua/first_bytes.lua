-- What the first bytes of a client are, on a port that speaks HTTP. Pure.

local M = {}

local PREFACE = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" -- RFC 9113, section 3.4
local LONGEST_LINE = 8192
local METHODS = {}
for name in ("get head post put delete connect options trace patch pri proxy"):gmatch("%a+") do METHODS[name] = true end

-- Could any HTTP server, however lenient, take this for the first line of a request? With headers behind it that nobody
-- has looked at, it would believe them; so in doubt the answer is yes, and HAProxy's own parser has the last word.
local function like_a_request(line)
  local lower = line:lower()
  if lower:find("http/", 1, true) then return true end
  local method, target = lower:match("^(%S+)%s*(%S*)")
  if not method then return true end -- blanks alone
  return METHODS[method] or target:find("^/") ~= nil or target:find("://", 1, true) ~= nil
end

--- `http`, `other`, or `wait` while both are possible.
function M.kind(data)
  if data:sub(1, 12) == "\r\n\r\n\0\r\nQUIT\n" then return "http" end -- a second PROXY header: refused by the parser
  local start = data:find("[^\r\n]")
  if not start then return #data > LONGEST_LINE and "http" or "wait" end
  if not data:find("^[%w!#$%%&'*+.^_`|~ \t-]", start) then return "other" end -- no token (RFC 9110, section 5.6.2)
  local stop = data:find("\n", start, true)
  if not stop then return #data > LONGEST_LINE and "http" or "wait" end
  local line = data:sub(start, stop)
  return (like_a_request(line) or data:sub(start, start + #PREFACE - 1) == PREFACE) and "http" or "other"
end

-- What some server takes for a space between words: Python's str.split() of Latin-1, C's isspace(). Before the first word
-- it may be any control character (Java's trim()).
local WORDS = "[^\9-\13\28-\32\133\160]+"
local BEFORE = "^[%z\1-\32\127\133\160]*"

local function has_version(line)
  for word in line:gmatch(WORDS) do
    if word:sub(1, 5):lower() == "http/" then return true end
  end
  return false
end

-- Whether no server, however lenient, takes this line for the first one of a request.
local function is_no_request(line)
  local first, rest = line:match(BEFORE .. "(" .. WORDS .. ")(.*)$")
  if not first or not first:find("%w") or has_version(line) then return false end
  -- the end is cut off first: a pattern that ends in $ alone begins anew at each letter
  if METHODS[first:lower():sub(-16):match("%a*$")] or METHODS[first:lower():match("^%A*(%a*)")] then return false end
  for word in rest:gmatch(WORDS) do -- Java's server takes x:/ for a target, whatever the method and without a version
    if word:find("/", 1, true) or word == "*" then return false end
  end
  return true
end

-- Whether a line in it could be a header: some server may take whatever is before that line for a request's.
local TOKEN = "[%w!#$%%&'*+.^_`|~-]"
local HEADER = "[\r\n]" .. TOKEN:rep(6) .. TOKEN .. "*[ \t]*:"

-- Whether it begins with a whole ClientHello (RFC 8446, sections 4.1.2 and 5.1); nil while it may become one. Its first
-- bytes are a word, and a line that has a version behind it would be a request to a lenient server.
local function is_tls(data)
  if #data < 11 then return nil end
  local major, minor, length, kind, high, low, version = string.unpack(">xBBI2BBI2B", data)
  if major ~= 3 or minor > 4 or kind ~= 1 or version ~= 3 then return false end
  if length < 42 or length > 16384 or high * 65536 + low < length - 4 then return false end
  if #data < 5 + length then
    if #data > LONGEST_LINE then return false end
    return nil
  end
  local hello = data:sub(1, 5 + length)
  return not has_version(hello:match("^[^\n]*")) and not hello:find(HEADER)
end

--- The length of the ClientHello that `is_surely_other` has found, or nil. What follows waits for an answer in TLS (held.lua).
function M.hello(data)
  return data:byte(1) == 0x16 and 5 + string.unpack(">I2", data, 4) or nil
end

--- Whether what is no request to HAProxy is none to anybody: true, false, or nil while it may be seen later. What passes
--- as it is can have requests behind it, with headers that nobody has looked at.
function M.is_surely_other(data)
  if data:byte(1) == 0x16 then return is_tls(data) end
  local line, ending = data:match("^([^\r\n]*)(\r?\n?)")
  if #line > LONGEST_LINE then return false end
  if ending == "\r\n" then return is_no_request(line) end
  -- Java's server takes no other end of a line: what follows would be one with it. All these protocols send both bytes.
  if ending == "\n" or #line + 1 < #data then return false end
  return nil
end

return M
