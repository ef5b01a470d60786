#!lua flags=allow-oom
-- hand_back: return the end of a claim, unrun. Attempt and losses stay as they are, but for a loss that is told.
--
-- KEYS[1] root; ARGV[1] worker, [2] claim, [3] from which sample, [4] 1 if that sample had been started (it resumes),
--   [5] milliseconds that the sample before it has run, if it runs too long for a bite: the node's bite falls to 1; else 0,
--   [6] 1 if the sample that had been started lost its worker, which was killed under it; else 0.
-- Returns 'ok', or 'lost' if the claim is not this worker's.
-- Invariant: [from, hi) is in a stream again, but for a first sample that is dead at `max_losses`; or dropped if the study takes
-- no more. Idempotent. Cost: O(1).

local w, claim, from, is_started, slow_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1', tonumber(ARGV[5])
local loss = is_started and tonumber(ARGV[6]) or 0
local r = read_claim(w, claim)
if not r then return 'lost' end
if from >= r.hi then return 'ok' end
if from < r.lo then return 'lost' end

if slow_ms > 0 and call('HGET', study_key(r.s), 'state') == 'running' then
  call('HSET', node_key(r.s, r.node), 'pace_ms', int(max(slow_ms, BITE_MS)))
end
if is_started and r.hi - from > 1 then
  -- Only the first one had begun: the others go back as they came.
  local whole = r.hi
  give_back(w, claim, r, from + 1, r.losses)
  r = read_claim(w, claim)
end
if r then give_back(w, claim, r, from, r.losses + loss, is_started and (loss > 0 and 3 or 1)) end
finish_move()
return 'ok'
