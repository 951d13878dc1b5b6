-- What other proxies wrote into X-Forwarded-For and Forwarded: joined, or walked from the right over the trusted ones.

local protocol = require("proxy_protocol")
local networks = require("networks")
local register = require("register")

local M = {}

-- All lines of a header in their order, as one list. HAProxy counts them from 0.
function M.joined(txn, name)
  local lines = txn.http:req_get_headers()[name]
  local all = {}
  for number = 0, lines and #lines or -1 do
    if lines[number]:find("%S") then all[#all + 1] = lines[number] end
  end
  return table.concat(all, ", ")
end

local LONGEST_ITEM = 64 -- an IPv6 address in brackets and quotes, with a port and blanks, has 51 at most

--- The bytes of an address as proxies write it, with or without a port; nil for anything else.
function M.address(text)
  if #text > LONGEST_ITEM then return nil end
  local bare = text:match('^%s*"?%[([%x:.]+)%]:?%d*"?%s*$') or text:match("^%s*(%d+%.%d+%.%d+%.%d+):?%d*%s*$")
    or text:match("^%s*([%x:.]+)%s*$")
  return bare and protocol.canonical(protocol.ipv4(bare) or protocol.ipv6(bare))
end

--- The right-most address of `list` that is not `trusted`, given that who sent the list is; nil when it names none.
--- What is no address that a client can have ends the walk: nobody trusted has checked what stands left of it.
function M.client(list, trusted, unusable)
  local client
  local items = {}
  for item in list:gmatch("[^,]+") do items[#items + 1] = item end
  for number = #items, 1, -1 do
    local address = M.address(items[number])
    if not address or (unusable or protocol.unusable)(address) then return client end
    client = address
    if not trusted(address) then return client end
  end
  return client
end

--- Registers the actions on requests.
function M.register(settings)
  local trusted = networks(settings.trusted)
  local function bytes_of(text) return protocol.ipv4(text) or protocol.ipv6(text) end
  register("srcip_walk", function(txn)
    local is_believed = trusted(bytes_of(txn.f:src()))
    if is_believed then
      local client = M.client(M.joined(txn, settings.list), trusted)
      if client then txn:set_var("txn.srcip_walked", protocol.text(client)) end
    end
    txn:set_var("txn.srcip_believed", is_believed)
  end, "http-req")
  for variable, name in pairs({ forwarded_for = settings.list, forwarded = "forwarded" }) do
    register("srcip_join_" .. variable, function(txn)
      txn:set_var("txn.srcip_" .. variable, M.joined(txn, name))
    end, "http-req")
  end
end

return M
