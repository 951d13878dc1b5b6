-- What a client sends behind its ClientHello is held until the application has answered in TLS. A server of HTTP that waits
-- for the end of its first line answers nothing, and would read it on; so it never gets what comes then.

local register = require("register")

local ANSWERS = { ["\21\3"] = true, ["\22\3"] = true } -- an alert, a handshake (RFC 8446, section 5.1)

local Held = { id = "srcip: behind a ClientHello" }
Held.__index = Held

function Held:new() return setmetatable({}, Held) end

-- The rules of the backend end a connection that this has not said of, as HAProxy may go on without a filter.
function Held:start_analyze(txn, channel)
  filter.register_data_filter(self, channel)
  txn:set_var("txn.srcip_held", true)
end

-- How many bytes of a channel may go on; none are lost.

local function of_answer(self, channel, count)
  if count < 2 then return 0 end
  self.is_tls = ANSWERS[channel:data(0, 2)]
  filter.unregister_data_filter(self, channel)
  if self.is_tls then filter.wake_time(1) end -- for what waits in the other direction
  return count
end

local function of_client(self, channel, count)
  if self.is_tls then
    filter.unregister_data_filter(self, channel)
    return count
  end
  local may = math.min(count, self.left)
  self.left = self.left - may
  return may
end

local function payload(self, txn, channel)
  self.left = self.left or txn:get_var("txn.srcip_hello") or 0
  return (channel:is_resp() and of_answer or of_client)(self, channel, channel:input())
end

-- HAProxy ends the connection where this raises an error, but lets everything pass where it has no memory or returns nothing
-- (hlua_filter_tcp_payload() of hlua.c), so nothing else comes out of here. Nor may it take long, for the same reason.
function Held:tcp_payload(txn, channel)
  local is_done, count = pcall(payload, self, txn, channel)
  if is_done then return count end
  pcall(register.failed, txn, "srcip_held", count)
  error("srcip_held", 0)
end

core.register_filter("srcip_held", Held, function(held) return held end)
