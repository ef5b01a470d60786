-- leave: a worker says good-bye. What it still owns is put back, and counts as no loss.
--
-- ARGV[1] worker.
-- Returns 'ok', or 'more' when it owned more than one call can put back: call again. Idempotent. Cost: O(claims held).

function verbs.leave(m, args)
  local is_gone = workers.remove(m, args[1], 0, ITEMS / 2)
  if clock.sweeper(m) == args[1] then space.call('HDEL', names.clock(m.root), 'sweeper', 'sweeps_until_ms') end
  todo.finish(m)
  return is_gone and 'ok' or 'more'
end
