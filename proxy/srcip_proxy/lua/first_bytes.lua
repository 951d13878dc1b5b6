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

return M
