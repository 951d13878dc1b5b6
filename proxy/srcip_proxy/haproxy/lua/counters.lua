-- The counters of the sidecar, as Prometheus text, and the rate limit of its log.

local M = {}

local LINES_PER_SECOND = 5

-- Every counter with its label values, so that each series exists from the start.
local SERIES = {
  accepted = {
    help = "Intercepted connections that were handed to the application, by what their header said",
    label = "header", values = { "proxy", "local", "none" },
  },
  refused = {
    help = "Intercepted connections that were refused, by reason",
    label = "reason",
    values = { "checksum", "empty", "family", "header_closed", "header_silence", "header_timeout", "internal",
      "malformed", "no_header", "no_room", "not_http", "own_address", "port", "too_long", "too_many", "undelivered",
      "unusable_address", "version" },
  },
  fallback = {
    help = "Connections whose application saw the balancer's address because it cannot see the client's",
    label = "reason", values = { "family", "own_address" },
  },
}

local counts = {}
for name, series in pairs(SERIES) do
  counts[name] = {}
  for _, value in ipairs(series.values) do counts[name][value] = 0 end
end

function M.add(name, value) counts[name][value] = counts[name][value] + 1 end

--- The table of one counter, for the code that counts every connection.
function M.of(name) return counts[name] end

local second, lines, skipped = 0, 0, 0

--- Whether a line may be logged now: the number of lines left out since the last one, or nil.
function M.may_log()
  local now = os.time()
  if now ~= second then second, lines = now, 0 end
  lines = lines + 1
  if lines > LINES_PER_SECOND then
    skipped = skipped + 1
    return nil
  end
  local before = skipped
  skipped = 0
  return before
end

-- What the kernel lets anybody read of the Pod's connection tracking. The files are there where the node has loaded it.
local GAUGES = {
  { "srcip_nf_conntrack_entries", "count", "Connections that the kernel tracks in this Pod" },
  { "srcip_nf_conntrack_entries_limit", "max", "Connections that it can track there; beyond, new ones are dropped" },
}

local function gauges(out)
  for _, gauge in ipairs(GAUGES) do
    local name, file, help = table.unpack(gauge)
    local source = io.open("/proc/sys/net/netfilter/nf_conntrack_" .. file)
    local value = source and source:read("n")
    if source then source:close() end
    if value then out[#out + 1] = string.format("# HELP %s %s.\n# TYPE %s gauge\n%s %d\n", name, help, name, name, value) end
  end
end

local function text()
  local out = {}
  gauges(out)
  for name, series in pairs(SERIES) do
    local metric = "srcip_" .. name .. "_connections_total"
    out[#out + 1] = string.format("# HELP %s %s.\n# TYPE %s counter\n", metric, series.help, metric)
    for _, value in ipairs(series.values) do
      out[#out + 1] = string.format('%s{%s="%s"} %d\n', metric, series.label, value, counts[name][value])
    end
  end
  return table.concat(out)
end

-- /metrics: these counters, then all that HAProxy's own exporter knows.
core.register_service("srcip_metrics", "http", function(applet)
  local own = core.httpclient():get({ url = "http://127.0.0.1:" .. M.port .. "/metrics/haproxy", timeout = 2000 })
  local body = text() .. (own and own.status == 200 and own.body or "")
  applet:set_status(200)
  applet:add_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
  applet:add_header("content-length", tostring(#body))
  applet:start_response()
  applet:send(body)
end)

return M
