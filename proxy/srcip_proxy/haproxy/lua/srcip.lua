-- What HAProxy asks for each intercepted connection: read the PROXY protocol header, take it out, and say which
-- client the application shall see and where the application is reached. Settings come as `key=value` arguments.

local protocol = require("proxy_protocol")
local counters = require("counters")

local settings = {}
for _, argument in ipairs({ ... }) do
  local key, value = argument:match("^([%w_]+)=(.*)$")
  settings[key] = value
end
counters.port = settings.health_port
collectgarbage("generational") -- what a connection leaves behind is short-lived

local function bytes_of(text) return protocol.ipv4(text) or protocol.ipv6(text) end

local function set_of(list)
  local set = {}
  for item in list:gmatch("[^,]+") do set[item] = true end
  return set
end

-- Addresses of srcip's own, which no client can have; those of this Pod and the ends of its networks, and the node's.
local never, own, node = {}, {}, {}
for text in pairs(set_of(settings.never)) do never[bytes_of(text)] = true end
for text in pairs(set_of(settings.own)) do own[bytes_of(text)] = true end
for text in pairs(set_of(settings.node)) do node[text] = true end
local versions = set_of(settings.versions)
local limits = { max_header = tonumber(settings.max_header), versions = { versions["1"], versions["2"] } }

local HINTS = {
  no_header = "configure the balancer to send the PROXY protocol to this port, or set srcip.io/proxy-protocol: optional",
  malformed = "configure the balancer to send a PROXY protocol header of version 1 or 2",
  version = "allow this version in srcip.io/proxy-protocol-versions, or change it in the balancer",
  too_long = "raise srcip.io/max-header-size, or configure the balancer to send fewer TLVs",
  checksum = "find what changes the header between the balancer and the Pod; a second balancer that adds TLVs must "
    .. "compute the CRC32C again",
  header_closed = "look for the reason in the balancer's log: it closed the connection in the middle of its header",
  header_timeout = "find out why the balancer's header arrives late, or raise srcip.io/header-timeout",
  header_silence = "configure the balancer to send its header at once, not with the client's first bytes (AWS NLB by "
    .. "default): a protocol in which the server speaks first needs it",
  unusable_address = "correct the source address in the balancer's header; a connection of the balancer's own, such as a "
    .. "health check, must send LOCAL (version 2) or UNKNOWN (version 1)",
  own_address = "connect from the Pod to itself without the balancer, or set srcip.io/client-address: best-effort",
  family = "configure the application to listen on IPv4 and IPv6, or choose with srcip.io/client-address what happens "
    .. "to clients of the other version",
  port = "set srcip.io/client-address: ip or best-effort",
  undelivered = "configure the application to listen on this port, at an address that srcip.io/deliver-to reaches, and "
    .. "to accept connections within 5 s",
  too_many = "raise srcip.io/max-connections-per-client, if this client may have more connections",
  not_http = "remove the port from srcip.io/http-ports, or set srcip.io/http-other: pass",
  internal = "report this line as a bug of srcip",
  no_room = "raise srcip.io/max-header-size",
}

local function endpoint(address, port)
  return string.format(address:find(":", 1, true) and "[%s]:%s" or "%s:%s", address, port)
end

local function describe(txn)
  local f, from = txn.f, txn:get_var("txn.srcip_from")
  if from then return from end
  return string.format("%s to port %s", endpoint(f:fc_src(), f:fc_src_port()), f:dst_port())
end

-- Logs one line, unless there were many in this second; then the next line says how many are missing.
local function log(line, reason, hint)
  local skipped = counters.may_log()
  if not skipped then return end
  local more = skipped > 0 and string.format(" (%d similar lines suppressed)", skipped) or ""
  core.log(core.warning, string.format("srcip: %s; reason=%s; what to do: %s%s\n", line, reason, hint or HINTS[reason], more))
end

-- Counts and logs one connection; the rule behind this action ends it with a RST, so whatever fails after the first line.
local function refuse(txn, reason, detail)
  txn:set_var("txn.srcip_refused", true)
  counters.add("refused", reason)
  log("refused connection from " .. describe(txn) .. ": " .. detail, reason)
end

local register = require("register")
register.is_silent = settings.mode == "redirect"

function register.failed(txn, name, fault)
  refuse(txn, "internal", "error in " .. name .. ": " .. tostring(fault):gsub("%c", " "))
end

-- How the application learns the client: each mode has `own(txn, header)`, for the address of the connection itself,
-- and `client(txn, verdict)`. `header` is what the header said, for the counter.
local ways = require(settings.mode == "redirect" and "redirect" or "transparent")
local function unusable(bytes) return never[bytes] and "an address of srcip's own" or protocol.unusable(bytes) end
local deliver = ways({ settings = settings, own = own, unusable = unusable, bytes_of = bytes_of, refuse = refuse,
  log = log, describe = describe })

local function policy(txn)
  if settings.node_policy == settings.policy then return settings.policy end
  return node[txn.f:fc_src()] and settings.node_policy or settings.policy
end

local ON = {}

function ON.proxy(txn, verdict)
  local fault = unusable(verdict.address)
  if fault then
    return refuse(txn, "unusable_address", "client " .. protocol.text(verdict.address) .. " is " .. fault)
  end
  txn.req:remove(0, verdict.length)
  return deliver.client(txn, verdict)
end

ON["local"] = function(txn, verdict)
  txn.req:remove(0, verdict.length)
  return deliver.own(txn, "local")
end

function ON.none(txn)
  if policy(txn) == "required" then return refuse(txn, "no_header", "no PROXY protocol header") end
  return deliver.own(txn, "none")
end

function ON.wait() end

function ON.refuse(txn, verdict) return refuse(txn, verdict.reason, verdict.detail) end

register("srcip_header", function(txn)
  local data = txn.req:data() or ""
  limits.crc32c = function(bytes) return txn.c:crc32c(bytes) end
  local verdict = protocol.parse(data, limits)
  ON[verdict.kind](txn, verdict)
end)

-- A plain header, which HAProxy has read itself (fast_path.py), is only taken out. STOP ends the rules: without it, when this
-- action fails, the next one ends the connection.
local accepted = counters.of("accepted")
for version, length in pairs({ ["4"] = 28, ["6"] = 52 }) do
  register("srcip_plain" .. version, function(txn)
    txn.req:remove(0, length)
    accepted.proxy = accepted.proxy + 1
  end, "tcp-req", act.STOP)
end

-- The time for the header is over, or the sender has closed its side, and the header is not whole.
local function late(txn)
  local data = txn.req:data() or ""
  local closed = not txn.req:may_recv()
  -- less than a signature (the version 2 one begins with CR): no header, but the client's own first bytes
  local signature = data:byte(1) == 13 and 12 or 5
  if policy(txn) == "optional" and #data < signature then return ON.none(txn) end
  if closed and data == "" then -- a health check that only connects
    txn:set_var("txn.srcip_refused", true)
    counters.add("refused", "empty")
    return
  end
  if closed then return refuse(txn, "header_closed", "closed before the end of the header") end
  if data == "" then return refuse(txn, "header_silence", "not a single byte within " .. settings.timeout .. " ms") end
  return refuse(txn, "header_timeout", "no complete header within " .. settings.timeout .. " ms")
end

register("srcip_late", late)

local function too_many(txn)
  local client = txn:get_var("sess.srcip_text") or txn.f:src()
  refuse(txn, "too_many", "client " .. client .. " has reached its limit of open connections")
end

local IN_USE = "set srcip.io/client-address: ip or best-effort, as the client's port may be in use in the Pod"
local NOT_ACCEPTED = "check that the application accepts within 5 s, and takes IPv4 if it listens on IPv6 (IPV6_V6ONLY); with "
  .. "srcip.io/deliver-to: auto or pod, check for a full set of connections: docs/dataplane.md"

-- No server of the backend took it. It was counted as accepted; the reason says what became of it.
local function undelivered(what)
  return function(txn)
    if deliver.lose then deliver.lose(txn) end
    local seen = deliver.seen and deliver.seen(txn)
    counters.add("refused", "undelivered")
    log(what .. " from " .. describe(txn) .. " did not reach the application" .. (seen or ""), "undelivered",
      seen and (settings.client_address == "exact" and IN_USE or NOT_ACCEPTED))
  end
end

register("srcip_undelivered", undelivered("connection"), "tcp-res")
register("srcip_undelivered_request", undelivered("request"), "http-res")

-- The number of the server that is tried next, from 0 on; the first one is chosen by a rule. HAProxy asks on each try. A
-- text, as a number would be hashed by its bytes. `spare` is the number of a server that is left out where it is of no use.
core.register_fetches("srcip_next", function(txn, spare)
  local number = txn:get_var("txn.srcip_tries") or 0
  if number == 0 then txn:set_var("txn.srcip_since", core.now().sec) end
  if number == tonumber(spare) and not deliver.leaves(txn) then number = number + 1 end
  txn:set_var("txn.srcip_tries", number + 1)
  return tostring(number)
end)

register("srcip_too_many", too_many)
register("srcip_too_many_requests", too_many, "http-req")
