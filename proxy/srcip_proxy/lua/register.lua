-- Registers an action after which the rules go on. It must say so: HAProxy takes what an earlier action of the same
-- connection has returned for the result of one that returns nothing.

return function(name, run, where)
  core.register_action(name, { where or "tcp-req" }, function(txn)
    run(txn)
    return act.CONTINUE
  end)
end
