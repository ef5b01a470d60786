-- stop: ask workers to drain; they hear of it with their next beat or claim, and are woken for one if they wait for work.
--
-- ARGV[1…] workers. Returns how many of them are known. Idempotent. Cost: O(workers named).

function verbs.stop(m, args)
  local asked = 0
  for _, w in ipairs(args) do
    if space.call('ZSCORE', names.workers(m.root), w) then
      workers.ask_to_drain(m, w)
      asked = asked + 1
    end
  end
  return asked
end
