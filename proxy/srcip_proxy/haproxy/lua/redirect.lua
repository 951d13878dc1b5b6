-- Redirect mode: the application learns the client from headers. What the PROXY header said is kept in variables of the
-- session, as each request of an HTTP connection is a stream of its own; or it is written anew before the first byte.

local protocol = require("proxy_protocol")
local counters = require("counters")
local first_bytes = require("first_bytes")
local tlvs = require("tlvs")
local emitted = require("emitted")
local forwarded = require("forwarded")
local register = require("register")

local HTTPS = 443

return function(shared)
  local M = {}
  local settings, refuse = shared.settings, shared.refuse
  local wanted = {}
  for name in settings.tlvs:gmatch("[^,]+") do wanted[#wanted + 1] = name end

  -- Last of all that is set: what has a client may go on.
  local function hand_over(txn, address, port, header)
    counters.add("accepted", header)
    txn:set_var("sess.srcip_client", address .. "/" .. port)
  end

  local function keep(txn, to_port, is_tls)
    txn:set_var("sess.srcip_port", tostring(to_port))
    txn:set_var("sess.srcip_proto", (is_tls or to_port == HTTPS) and "https" or "http")
  end

  function M.own(txn, header)
    local f = txn.f
    keep(txn, f:dst_port(), false)
    if settings.emit ~= "off" then
      local from = shared.bytes_of(f:fc_src())
      local to = shared.bytes_of(#from == 16 and settings.pod6 ~= "" and settings.pod6 or f:dst())
      txn:set_priv({ address = from, port = f:fc_src_port(), to = to, to_port = f:dst_port() })
    end
    hand_over(txn, f:fc_src(), f:fc_src_port(), header)
  end

  function M.client(txn, verdict)
    local said = tlvs.read(verdict.tlvs or "")
    keep(txn, verdict.to_port, said.ssl)
    for _, name in ipairs(wanted) do
      if said[name] then txn:set_var("sess.srcip_tlv_" .. name:gsub("-", "_"), said[name]) end
    end
    if settings.emit ~= "off" then txn:set_priv(verdict) end
    hand_over(txn, protocol.text(verdict.address), verdict.port, "proxy")
  end

  -- The port that an IPv6 connection came to stands in the address that it was led to; 0 where it was not led here.
  register("srcip_port6", function(txn)
    local bytes, prefix = shared.bytes_of(txn.f:dst()), shared.bytes_of(settings.ports6)
    local port = bytes:sub(1, 14) == prefix:sub(1, 14) and string.unpack(">I2", bytes, 15) or 0
    txn:set_var("sess.srcip_to", port)
  end)

  register("srcip_kind", function(txn)
    local data = txn.req:data() or ""
    local kind = first_bytes.kind(data)
    if kind == "wait" then return end
    if kind == "other" then
      if settings.other == "refuse" then return refuse(txn, "not_http", "not HTTP") end
      local is_sure = first_bytes.is_surely_other(data)
      if is_sure == nil then return end
      if not is_sure then
        return refuse(txn, "not_http", "not HTTP by the specification, but some servers would accept it as a request")
      end
      local hello = first_bytes.hello(data)
      if hello then
        txn:set_var("txn.srcip_hello", hello)
        kind = "tls"
      end
    end
    txn:set_var("sess.srcip_kind", kind)
  end)

  register("srcip_emit", function(txn)
    local header = emitted.header(settings.emit, txn:get_priv(), function(bytes) return txn.c:crc32c(bytes) end)
    if txn.req:insert(header, 0) ~= #header then
      return refuse(txn, "no_room", "the PROXY header for the application does not fit into the buffer")
    end
    local hello = txn:get_var("txn.srcip_hello")
    if hello then txn:set_var("txn.srcip_hello", hello + #header) end
    txn:set_var("txn.srcip_emitted", true)
  end)

  forwarded.register(settings)
  if settings.other == "pass" then require("held") end

  return M
end
