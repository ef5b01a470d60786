-- grow: samples are added to a study that runs.
--
-- ARGV[1] study, [2] its new edition: how many times samples were added to it, this time included,
--   [3] how many fields were staged under `study:<s>:grown:<name>` (the new `step:…` and sealed fields of its plan),
--   [4] msgpack [[step, 1 if instances of other steps wait for one of its instances as a whole, else 0], …]: the steps with
--   samples, [5] `steps` of the study's hash, anew, [6] a name that no other growth has.
-- Returns 'grown' (also when it already was, by this very one), 'incomplete' (staged fields expired), 'stale' (someone else
--   added samples meanwhile), 'passed' (something has begun that waited for all samples that there were), 'ended' (also when it
--   is about to), or 'gone'.
-- Invariant: whatever waits for all samples of a step waits for the added ones, too. Idempotent. Cost: O(steps with samples
--   + fields); their instances are looked at in pieces.
-- Refused on a full server: it makes a study larger.

-- Why the study can't grow, or 'grown' if it has; nil if it can.
local function refusal(st, edition, name)
  local old, state = counters.get(st.hash, 'edition'), studies.state(st)
  if not state then return 'gone' end
  -- Two who add samples at once both make the next edition: the second is told to begin anew.
  if old == edition and counters.text(st.hash, 'growth') == name then return 'grown' end
  if state ~= 'running' then return 'ended' end
  if old ~= edition - 1 then return 'stale' end
end

-- Instances that were complete are so no more. What waits for such an instance as a whole was told, and can't be called back.
-- Returns how many are reopened; nil if that can't be.
local function reopened(m, st, growing)
  local count = 0
  for _, pair in ipairs(growing) do
    local i, is_waited_for = pair[1], pair[2] == 1
    local step, complete = plan.step(m, st, i), counters.get(st.hash, i .. ':complete')
    if complete > 0 and (is_waited_for or (complete == step.instances and #step.after > 0)) then return nil end
    count = count + complete
  end
  return count
end

local function grow(m, st, edition, fields, growing, steps, name)
  local staged = names.growth(m.root, st.id, name)
  local answer = refusal(st, edition, name)
  local grown = not answer and space.call('HGETALL', staged)
  if grown and #grown ~= 2 * fields then return 'incomplete' end
  local count = grown and reopened(m, st, growing)
  if not count then
    redis.call('UNLINK', staged)
    return answer or 'passed'
  end
  redis.call('HSET', names.plan(m.root, st.id), unpack(grown))
  redis.call('UNLINK', staged)
  st.steps, st.instances = {}, {}
  for _, pair in ipairs(growing) do counters.remove(st.hash, pair[1] .. ':complete', pair[1] .. ':is_doomed') end
  counters.set(st.hash, 'edition', edition)
  counters.set(st.hash, 'growth', name)
  counters.set(st.hash, 'steps', steps)
  counters.add(st.hash, 'instances_left', count)
  studies.plan(m, st, 'added', 0, 0)
  return 'grown'
end

function verbs.grow(m, args)
  local s = args[1]
  local answer = protect(m, s, grow, studies.of(m, s), tonumber(args[2]), tonumber(args[3]), cmsgpack.unpack(args[4]), args[5],
    args[6])
  if not answer then redis.call('UNLINK', names.growth(m.root, s, args[6])) end
  todo.finish(m)
  return answer or 'ended'
end
