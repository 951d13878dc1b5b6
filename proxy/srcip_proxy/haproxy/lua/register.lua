-- Registers an action after which the rules go on, or end as `result` says. An error in it refuses the connection: HAProxy
-- logs it, and goes on as if the action had done its work.
--
-- HAProxy takes what an earlier action of the same connection has returned for the result of one that returns nothing; so
-- where one of them returns something (srcip_plain in tproxy mode) all must. And it makes no filter of Lua (held.lua) for a
-- connection whose actions have returned something; so in redirect mode none does.

local register = { is_silent = false }

--- Refuses the connection after an error in the part `name`; srcip.lua has the true one.
function register.failed(txn) txn:set_var("txn.srcip_refused", true) end

local function called(_, name, run, where, result)
  core.register_action(name, { where or "tcp-req" }, function(txn)
    local is_done, fault = pcall(run, txn)
    if not is_done then register.failed(txn, name, fault) end
    if register.is_silent then return end
    return is_done and result or act.CONTINUE
  end)
end

return setmetatable(register, { __call = called })
