#!lua flags=allow-oom
-- stop: ask workers to drain; they hear of it with their next beat or claim, and are woken for one if they wait for work.
--
-- KEYS[1] root; ARGV[1…] workers. Returns how many of them are known. Idempotent. Cost: O(workers named).

local asked = 0
for _, w in ipairs(ARGV) do
  if call('ZSCORE', root .. 'workers', w) then
    ask_to_drain(w)
    asked = asked + 1
  end
end
return asked
