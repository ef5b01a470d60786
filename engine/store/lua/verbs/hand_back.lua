-- hand_back: return the end of a claim, unrun. Attempt and losses stay as they are, but for a loss that is told.
--
-- ARGV[1] worker, [2] claim, [3] from which sample, [4] 1 if that sample had been started (it resumes),
--   [5] milliseconds that the sample before it has run, if it runs too long for a bite: the instance's bite falls to 1; else 0,
--   [6] 1 if the sample that had been started lost its worker, which was killed under it; else 0.
-- Returns 'ok', or 'lost' if the claim is not this worker's.
-- Invariant: [from, hi) is in a stream again, but for a first sample that is dead at `max_losses`; or dropped if the study takes
-- no more. Idempotent. Cost: O(1).

local function hand_back(m, st, w, claim, from, is_started, slow_ms, loss)
  local row = claims.read(m, w, claim)
  if not row or from < row.lo then return 'lost' end
  if from >= row.hi then return 'ok' end
  if slow_ms > 0 and studies.state(st) == 'running' then
    counters.set(plan.instance(m, st, row.instance, row.step).hash, 'pace_ms', math.max(slow_ms, BITE_MS))
  end
  -- Only the first one had begun: the others go back as they came.
  if is_started and row.hi - from > 1 then claims.give_back(m, st, w, claim, row, from + 1, row.losses) end
  claims.give_back(m, st, w, claim, row, from, row.losses + loss, is_started and (loss > 0 and 3 or 1))
  return 'ok'
end

function verbs.hand_back(m, args)
  local w, claim, is_started = args[1], args[2], args[4] == '1'
  local s = claims.study_of(claim)
  local answer = protect(m, s, hand_back, studies.of(m, s), w, claim, tonumber(args[3]), is_started, tonumber(args[5]),
    is_started and tonumber(args[6]) or 0)
  if not answer then claims.finish(m, w, args[2]) end
  todo.finish(m)
  return answer or 'lost'
end
