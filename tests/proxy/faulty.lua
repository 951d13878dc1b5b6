-- Stands before srcip.lua in a copy of the image: what the sidecar registers fails when and where the file /fault says.
--
-- `NAME STEP KIND RUN`: the calls of NAME fail, the first one at its first instruction, each further one STEP
-- instructions later, by an error or for want of memory (tune.lua.maxmem). A call that ends before that says so in the log.

local calls, run = 0, ""

local FAIL = {
  error = function() error("injected") end,
  memory = function() return ("x"):rep(1 << 30) end,
}

local function faulty(name, original)
  return function(...)
    local file = io.open("/fault")
    local wanted, step, kind, this = file:read("l"):match("^(%S+) (%d+) (%a+) (%S+)")
    file:close()
    if wanted ~= name then return original(...) end
    if this ~= run then calls, run = 0, this end
    local at = 1 + calls * tonumber(step)
    calls = calls + 1
    debug.sethook(function()
      debug.sethook()
      FAIL[kind]()
    end, "", at)
    local result = original(...)
    local left = debug.gethook()
    debug.sethook()
    if left then core.Warning("whole " .. run .. " " .. at) end
    return result
  end
end

local action, filter, fetches = core.register_action, core.register_filter, core.register_fetches
function core.register_action(name, where, original) action(name, where, faulty(name, original)) end
function core.register_fetches(name, original) fetches(name, faulty(name, original)) end
function core.register_filter(name, methods, parse)
  for _, method in ipairs({ "new", "start_analyze", "tcp_payload" }) do
    methods[method] = faulty(name .. "." .. method, methods[method])
  end
  filter(name, methods, parse)
end
math.min = faulty("math.min", math.min)
