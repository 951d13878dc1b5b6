-- tproxy mode: the application sees the client as its TCP peer. Says where it is reached, and what it can be shown.

local protocol = require("proxy_protocol")
local listeners = require("listeners")
local counters = require("counters")
local forwarded = require("forwarded")
local networks = require("networks")
local register = require("register")

local FIRST_UNPRIVILEGED_PORT = 1024 -- below, binding needs CAP_NET_BIND_SERVICE (ip-sysctl.rst)

return function(shared)
  local M = {}
  local settings, bytes_of, refuse, log, describe =
    shared.settings, shared.bytes_of, shared.refuse, shared.log, shared.describe
  -- The Pod's own address per family, as bytes; nil where it has none.
  local pod4, pod6 = bytes_of(settings.pod4), bytes_of(settings.pod6)
  local loopback4, loopback6 = bytes_of(settings.loopback4), bytes_of(settings.loopback6)
  local has_ipv6 = settings.ipv6 == "1"

  local function is_ipv6(text) return text:find(":", 1, true) ~= nil end

  -- Whether srcip.io/deliver-to has an address of this family at all.
  local function has_family(is6)
    if is6 then return has_ipv6 and (settings.deliver_to ~= "pod" or pod6 ~= nil) end
    return settings.deliver_to ~= "pod" or pod4 ~= nil
  end

  local function listens(set, is6)
    if is6 then return set[listeners.ANY6] or set[loopback6] or pod6 and set[pod6] end
    return set[listeners.ANY4] or set[listeners.ANY6] or set[loopback4] or pod4 and set[pod4]
  end

  -- Whether the application can take a client of the other family than that of the balancer's connection.
  local function takes(is6, port)
    if not has_family(is6) then return false end
    return listens(listeners.on(port), is6) or listens(listeners.on(port, true), is6)
  end

  -- `kind` is "client" (the address and port that were set) or "own" (those of the connection itself: in the Pod's own
  -- network the inner connection must not repeat the outer one's addresses and ports). `header` is what the header said,
  -- for the counter. Last of all that is set: what has a backend may go on.
  local function hand_over(txn, kind, is6, header)
    counters.add("accepted", header)
    txn:set_var("txn.srcip_backend", kind .. (is6 and "6" or "4"))
  end

  function M.own(txn, header)
    local is6 = is_ipv6(txn.f:fc_src())
    if has_family(is6) then return hand_over(txn, "own", is6, header) end
    refuse(txn, "family", "the Pod has no address of this family to deliver to")
  end

  function M.client(txn, verdict)
    local address, port, outer = protocol.text(verdict.address), verdict.port, txn.f:fc_src()
    local is6 = #verdict.address == 16
    if is6 ~= is_ipv6(outer) and not takes(is6, txn.f:dst_port()) then
      if settings.client_address ~= "best-effort" then
        return refuse(txn, "family", "client " .. address .. " cannot be shown to the application")
      end
      counters.add("fallback", "family")
      log("connection from " .. describe(txn) .. ": the application sees the balancer, not client " .. address,
        "family")
      return M.own(txn, "proxy")
    end
    if port < FIRST_UNPRIVILEGED_PORT then
      if settings.client_address == "exact" then
        return refuse(txn, "port", "the sidecar may not use the client's port " .. port)
      end
      port = 0 -- any
    end
    local is_balancer = address == outer or is6 and verdict.address == bytes_of(outer)
    txn:set_var("txn.srcip_client", address .. "/" .. port)
    hand_over(txn, is_balancer and "own" or "client", is6, "proxy")
  end

  -- A request whose balancer states the client by a header alone. Its port is not known; without a client, or with one
  -- that cannot be shown, the balancer itself is the source.
  local function request(trusted, own)
    local function unusable(bytes) return own[bytes] or protocol.unusable(bytes) end
    return function(txn)
      local outer = txn.f:fc_src()
      local outer6, list = is_ipv6(outer), forwarded.joined(txn, settings.list)
      local client = trusted(bytes_of(outer)) and forwarded.client(list, trusted, unusable)
      local is6 = client and #client == 16
      if client and is6 ~= outer6 and not takes(is6, txn.f:dst_port()) then
        local address = protocol.text(client)
        if settings.client_address ~= "best-effort" then
          return refuse(txn, "family", "client " .. address .. " cannot be shown to the application")
        end
        counters.add("fallback", "family")
        log("request from " .. describe(txn) .. ": the application sees the balancer, not client " .. address, "family")
        client = nil
      end
      if client then txn:set_var("txn.srcip_walked", protocol.text(client)) end
      if not client then is6 = outer6 end
      txn:set_var("txn.srcip_web", is6 and "6" or "4")
    end
  end

  if settings.client_from == "x-forwarded-for" then
    register("srcip_request", request(networks(settings.trusted), shared.own), "http-req")
  end

  return M
end
