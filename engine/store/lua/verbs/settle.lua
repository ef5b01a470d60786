-- settle: account what happened to samples of some claims, and release what became ready by it.
--
-- ARGV[1] worker, [2] token of the request, [3] msgpack [Settlement, …] (records.py):
--   claim       as its worker got it
--   lo, upto    accounts [lo, upto); lo must be where the claim stands
--   runs        [OutcomeRun, …], in order; their counts add up to upto - lo
--               state   finished | failed | dead | cancelled | retry
--               flags   1 blocking · 2 stops the study · 4 stops the workers
--   elapsed_ms  the sum over those samples
--   reasons     [[sample, sealed text], …] of samples that failed
-- Returns msgpack [answer for each claim, due_ms, ended_instances]: ok | lost (not yours, nothing was changed) | gone (the study
--   is) | stopping (accounted; nothing more of the study is to be started); milliseconds until the next retry, or -1; and of
--   how many instances the last sample was settled.
-- Invariants: each sample is counted once (fenced by claim and lo); what it makes ready is put in the same move or stands on
-- todo. Idempotent: the same token gets the same answer. Cost: O(runs), at most ITEMS children; the rest on todo.

-- A running mean of milliseconds a sample, from which bites are made; and the step's account of times.
local function keep_times(st, instance, samples, elapsed_ms)
  local mean, step = elapsed_ms / samples, instance.step
  local old = tonumber(counters.text(instance.hash, 'pace_ms'))
  counters.set(instance.hash, 'pace_ms', string.format('%.3f', old and (old * 3 + mean) / 4 or mean))
  counters.add(st.hash, step .. ':timed', samples)
  counters.add(st.hash, step .. ':elapsed_ms', math.floor(elapsed_ms + 0.5))
  counters.add(st.hash, step .. ':log2_ms:' .. math.floor(math.log(math.max(mean, 1)) / math.log(2)), samples)
end

-- One run of samples that ended alike. Returns true if they are settled: retries are not.
local function settle_run(m, st, w, row, instance, lo, run)
  local count, state, flags = run[OutcomeRun.count], run[OutcomeRun.state], run[OutcomeRun.flags]
  if state == 'retry' and studies.state(st) == 'running' then
    counters.count(st, instance, 'retrying', count)
    retries.put(m, st, instance,
      {lo = lo, hi = lo + count, attempt = row.attempt + 1, losses = row.losses, resume = run[OutcomeRun.resume]})
    return false
  end
  if state == 'retry' then state = 'cancelled' end
  -- Before the accounting: if this is the study's last sample, the study ends there, and is to end as failed.
  if flags % 4 >= 2 then
    studies.stop(m, st, 'failed',
      'sample ' .. int(lo) .. ' of instance ' .. instance.number .. ' stopped the study', false)
  end
  if flags >= 4 then
    -- This worker by name: it may hold no other claim of the study, and serve other queues too.
    if m.is_known then workers.ask_to_drain(m, w) end
    studies.plan(m, st, 'stop_workers')
  end
  release.account(m, st, instance, lo, lo + count, state, flags % 2 == 1)
  return true
end

-- From `lo` on a stretch is settled, the next is not, and so on: `lengths` are theirs, by turns.
local function announce(m, st, instance, lo, lengths)
  if #lengths == 1 then return release.tell_children(m, st, instance, lo, lo + lengths[1]) end
  if instance.each_parts > 0 and #lengths > 0 then
    studies.plan(m, st, 'settled_by_turns', instance.number, lo, lengths)
  end
end

-- Children hear of settled stretches only: a retry between them is announced when it is settled itself.
local function settle_runs(m, st, w, row, instance, runs)
  local lo, since, lengths, is_settled = row.lo, row.lo, {}, false
  for _, run in ipairs(runs) do
    local count = run[OutcomeRun.count]
    if settle_run(m, st, w, row, instance, lo, run) ~= is_settled then
      is_settled = not is_settled
      if is_settled and #lengths >= ITEMS then
        announce(m, st, instance, since, lengths)
        lengths, since = {}, lo
      end
      lengths[#lengths + 1] = 0
    end
    if #lengths > 0 then lengths[#lengths] = lengths[#lengths] + count else since = lo + count end
    lo = lo + count
  end
  announce(m, st, instance, since, lengths)
end

-- What is read of a study before a sample is accounted, at once.
local function fetch(st, instance, settlement)
  local step = instance.step
  local fields = {'running', counters.name(instance, 'running'), step .. ':timed', step .. ':elapsed_ms',
    step .. ':log2_ms:' .. math.floor(math.log(math.max(settlement[Settlement.elapsed_ms]
      / (settlement[Settlement.upto] - settlement[Settlement.lo]), 1)) / math.log(2))}
  for i, run in ipairs(settlement[Settlement.runs]) do
    if i <= 3 and run[OutcomeRun.state] ~= 'retry' then
      fields[#fields + 1] = counters.name(instance, run[OutcomeRun.state])
    end
  end
  fields[#fields + 1] = 'state'
  counters.fetch(st.hash, fields)
end

local function settle_claim(m, st, w, settlement, raw)
  local claim, lo, upto = settlement[Settlement.claim], settlement[Settlement.lo], settlement[Settlement.upto]
  local row = claims.read(m, w, claim, raw)
  if not row or row.lo ~= lo or upto > row.hi or upto <= lo then return 'lost' end
  -- A claim that ends is dropped even if the study has to be broken off below.
  if upto == row.hi then claims.finish(m, w, claim) end
  local is_planned, instance = pcall(plan.instance, m, st, row.instance, row.step)
  if is_planned then fetch(st, instance, settlement) end
  if not studies.is_unfinished(st) then
    claims.finish(m, w, claim)
    return 'gone'
  end
  if not is_planned then error(instance, 0) end
  release.fetch(instance, lo)
  counters.count(st, instance, 'running', lo - upto)
  -- Before the runs: the last of them may end the study, and its keys with it.
  keep_times(st, instance, upto - lo, settlement[Settlement.elapsed_ms])
  for _, reason in ipairs(settlement[Settlement.reasons]) do
    studies.note_reason(m, st, instance, reason[1], reason[2])
  end
  settle_runs(m, st, w, row, instance, settlement[Settlement.runs])
  if upto < row.hi then
    row.lo = upto
    claims.write(m, w, claim, row)
  end
  if studies.state(st) ~= 'stopping' then return 'ok' end
  studies.plan(m, st, 'idle')
  return 'stopping'
end

-- A request whose runs do not add up is refused as a whole, before anything is written.
local function is_sound(settlement)
  local n, elapsed_ms = 0, settlement[Settlement.elapsed_ms]
  for _, run in ipairs(settlement[Settlement.runs]) do
    if run[OutcomeRun.count] < 1 then return false end
    n = n + run[OutcomeRun.count]
  end
  return n == settlement[Settlement.upto] - settlement[Settlement.lo] and elapsed_ms >= 0 and elapsed_ms < 1e15
end

function verbs.settle(m, args)
  local w, token = args[1], args[2]
  local worker = names.worker(m.root, w)
  local facts = space.fields(worker, {'settle_token', 'settle_answer', 'lease_ms'})
  if facts.settle_token == token then return facts.settle_answer end
  m.is_known = facts.lease_ms
  local settlements, ids, answers = cmsgpack.unpack(args[3]), {}, {}
  for i, settlement in ipairs(settlements) do
    if not is_sound(settlement) then return redis.error_reply('ERR settle: runs do not add up') end
    ids[i] = settlement[Settlement.claim]
  end
  local raws = #ids > 0 and space.call('HMGET', names.worker_claims(m.root, w), unpack(ids)) or {}
  for i, settlement in ipairs(settlements) do
    local s = claims.study_of(ids[i])
    answers[i] = protect(m, s, settle_claim, studies.of(m, s), w, settlement, raws[i]) or 'gone'
  end
  todo.finish(m)
  local answer = cmsgpack.pack({answers, retries.due_ms(m), m.ended_instances})
  -- Tokens of a worker grow. An older one is a copy that comes late: its claims have moved on, so it changed nothing; nor may
  -- its answer take the place of the newest, which may yet be asked for again.
  if m.is_known and tonumber(token) > lenient(facts.settle_token) then
    redis.call('HSET', worker, 'settle_token', token, 'settle_answer', answer)
  end
  return answer
end
