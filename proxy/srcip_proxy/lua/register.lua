-- Registers an action after which the rules go on.
--
-- HAProxy takes what an earlier action of the same connection has returned for the result of one that returns nothing; so
-- where one of them returns something (srcip_plain in tproxy mode) all must. And it makes no filter of Lua (held.lua) for a
-- connection whose actions have returned something; so in redirect mode none does.

local register = { is_silent = false }

local function called(_, name, run, where)
  core.register_action(name, { where or "tcp-req" }, function(txn)
    run(txn)
    if register.is_silent then return end
    return act.CONTINUE
  end)
end

return setmetatable(register, { __call = called })
