-- tproxy mode: the application sees the client as its TCP peer. Says where it is reached, and what it can be shown.

local protocol = require("proxy_protocol")
local listeners = require("listeners")
local counters = require("counters")
local forwarded = require("forwarded")
local networks = require("networks")
local register = require("register")
local fallback = require("fallback")

local FIRST_UNPRIVILEGED_PORT = 1024 -- below, binding needs CAP_NET_BIND_SERVICE (ip-sysctl.rst)

return function(shared)
  local M = {}
  local settings, own, bytes_of, refuse, log, describe =
    shared.settings, shared.own, shared.bytes_of, shared.refuse, shared.log, shared.describe
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

  -- Whether one of these listeners is where srcip.io/deliver-to reaches the application over this IP version. One at :: may
  -- take IPv4, too: only a try tells.
  local function listens(set, is6)
    local loopback, pod = is6 and loopback6 or loopback4, is6 and pod6 or pod4
    local here = settings.deliver_to ~= "pod" and set[loopback] or settings.deliver_to ~= "loopback" and pod and set[pod]
    return set[listeners.ANY6] or not is6 and set[listeners.ANY4] or here
  end

  -- Whether the application can take a client of the other family than that of the balancer's connection.
  local function takes(is6, port)
    if not has_family(is6) then return false end
    return listens(listeners.on(port), is6) or listens(listeners.on(port, true), is6)
  end

  -- Why the application cannot be shown a client, as a reason; nil when it can.
  local function hidden(address, outer, port)
    if own[address] then return "own_address" end -- the kernel takes no such source (fib_validate_source)
    local is6 = #address == 16
    if is6 ~= is_ipv6(outer) and not takes(is6, port) then return "family" end
    return nil
  end

  -- Whether the balancer takes the place of a client that cannot be shown; else the connection is refused.
  local function is_replaced(txn, what, client, reason)
    if settings.client_address ~= "best-effort" then
      refuse(txn, reason, "client " .. client .. " cannot be the source address of the connection to the application")
      return false
    end
    counters.add("fallback", reason)
    log(what .. " from " .. describe(txn) .. ": the application sees the balancer's address instead of client " .. client, reason)
    return true
  end

  -- Where the application is reached for a client of the other IP version than that of the balancer's connection: not where
  -- that one came to.
  local function set_destination(txn, is6)
    local to = is6 and settings.pod6 or not is6 and settings.pod4 or ""
    if to == "" then to = is6 and settings.loopback6 or settings.loopback4 end
    txn:set_var("txn.srcip_to", to)
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
    refuse(txn, "family", "the Pod has no address of this IP version")
  end

  function M.client(txn, verdict)
    local address, port, outer = protocol.text(verdict.address), verdict.port, txn.f:fc_src()
    local is6 = #verdict.address == 16
    local reason = hidden(verdict.address, outer, txn.f:dst_port())
    if reason then return is_replaced(txn, "connection", address, reason) and M.own(txn, "proxy") end
    if port < FIRST_UNPRIVILEGED_PORT then
      if settings.client_address == "exact" then
        return refuse(txn, "port", "the sidecar lacks CAP_NET_BIND_SERVICE for the client's port " .. port)
      end
      port = 0 -- any
    end
    if is6 ~= is_ipv6(outer) then set_destination(txn, is6) end
    local is_balancer = address == outer or is6 and verdict.address == bytes_of(outer)
    txn:set_var("txn.srcip_client", address .. "/" .. port)
    hand_over(txn, is_balancer and "own" or "client", is6, "proxy")
  end

  -- What is seen from here of an application that no server has reached: whether it listens there all the same.
  function M.seen(txn)
    if listens(listeners.on(txn.f:dst_port(), true), is_ipv6(txn.f:src())) then return ", though a socket listens there" end
  end

  -- A request whose balancer states the client by a header alone. Its port is not known; without a client, or with one
  -- that cannot be shown, the balancer itself is the source.
  local function request(trusted)
    return function(txn)
      local outer, list = txn.f:fc_src(), forwarded.joined(txn, settings.list)
      local client = trusted(bytes_of(outer)) and forwarded.client(list, trusted, shared.unusable)
      local reason = client and hidden(client, outer, txn.f:dst_port())
      if reason and not is_replaced(txn, "request", protocol.text(client), reason) then return end
      if reason then client = nil end
      if client then txn:set_var("txn.srcip_walked", protocol.text(client)) end
      local is6 = is_ipv6(outer)
      if client and (#client == 16) ~= is6 then
        is6 = not is6
        set_destination(txn, is6)
      end
      txn:set_var("txn.srcip_web", is6 and "6" or "4")
    end
  end

  -- Whether the next try of an IPv4 client may be over IPv6: where it came over IPv6, what listens there may be for IPv6
  -- alone, and the tries before were refused, as they took no time. If so, it leaves.
  function M.leaves(txn)
    local f, outer = txn.f, txn.f:fc_src()
    if not is_ipv6(outer) or core.now().sec - txn:get_var("txn.srcip_since") > 1 then return false end
    local set = listeners.on(f:dst_port(), true)
    if not set[listeners.ANY6] or set[listeners.ANY4] then return false end
    fallback.leave(txn, { source = outer .. "/" .. f:fc_src_port(), to = f:fc_dst(), from = describe(txn),
      client = f:src() })
    return true
  end

  -- No server has taken it, on the second way neither.
  M.lose = fallback.lose

  -- The second way: the application sees the balancer.
  register("srcip_fallback", function(txn)
    local entry = fallback.arrive(txn)
    if not entry then return end
    counters.add("fallback", "family")
    log("connection from " .. entry.from .. ": the application sees the balancer's address instead of client " .. entry.client,
      "family")
    txn:set_var("txn.srcip_from", entry.from)
    txn:set_var("txn.srcip_client", entry.source)
    txn:set_var("txn.srcip_to", entry.to)
    txn:set_var("txn.srcip_backend", "own6")
  end)

  if settings.client_from == "x-forwarded-for" then
    register("srcip_request", request(networks(settings.trusted)), "http-req")
  end

  return M
end
