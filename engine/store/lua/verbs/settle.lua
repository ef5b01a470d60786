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
--   is) | stopping (accounted; nothing more of the study is to be started); milliseconds until the next retry if it
--   put one, or -1; and of
--   how many instances the last sample was settled.
-- Invariants: each sample is counted once (fenced by claim and lo); what it makes ready is put in the same move or stands on
-- todo. Idempotent: the same token gets the same answer. Cost: O(runs), at most ITEMS children; the rest on todo.

-- In which class of times samples fall: from 2^b to 2^(b+1) milliseconds, by their mean.
local function time_field(elapsed_ms, samples)
  return 'log2_ms:' .. int(math.floor(math.log(math.max(elapsed_ms / samples, 1)) / math.log(2)))
end

-- A running mean of milliseconds a sample, from which bites are made; and the step's account of times.
local function keep_times(st, instance, samples, elapsed_ms)
  local mean, hash = elapsed_ms / samples, st.hash
  local old = tonumber(counters.text(instance.hash, 'pace_ms'))
  counters.set(instance.hash, 'pace_ms', old and (old * 3 + mean) / 4 or mean)
  counters.add(hash, counters.name(instance, 'timed'), samples)
  counters.add(hash, counters.name(instance, 'elapsed_ms'), math.floor(elapsed_ms + 0.5))
  counters.add(hash, counters.name(instance, time_field(elapsed_ms, samples)), samples)
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

-- What is read of a study before its first sample in this move is accounted, at once.
local function fetch(st, instance, settlement)
  local samples = settlement[Settlement.upto] - settlement[Settlement.lo]
  local fields = {'state', 'running', counters.name(instance, 'running'), counters.name(instance, 'timed'),
    counters.name(instance, 'elapsed_ms'), counters.name(instance, time_field(settlement[Settlement.elapsed_ms], samples)),
    counters.name(instance, 'finished')}
  counters.fetch(st.hash, fields)
end

-- Accounts one claim of a study; returns its answer.
local function settle_claim(m, st, w, settlement, row)
  local lo, upto = settlement[Settlement.lo], settlement[Settlement.upto]
  local is_planned, instance = true, st.instances[row.instance]
  if not instance then
    is_planned, instance = pcall(plan.instance, m, st, row.instance, row.step)
    if is_planned then fetch(st, instance, settlement) end
  end
  if not studies.is_unfinished(st) then
    claims.finish(m, w, settlement[Settlement.claim])
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
  if upto == row.hi then
    claims.finish(m, w, settlement[Settlement.claim])
  else
    row.lo = upto
    claims.write(m, w, settlement[Settlement.claim], row)
  end
  if studies.state(st) ~= 'stopping' then return 'ok' end
  studies.plan(m, st, 'idle')
  return 'stopping'
end

-- Accounts the claims of one study: `places` says where they stand among the settlements. Answers are written there.
local function settle_study(m, st, w, settlements, raws, places, answers)
  for _, at in ipairs(places) do
    local settlement = settlements[at]
    local row = raws[at] and rows.read_claim(raws[at])
    if not row or row.lo ~= settlement[Settlement.lo] or settlement[Settlement.upto] > row.hi
      or settlement[Settlement.upto] <= row.lo then
      answers[at] = 'lost'
    else
      answers[at] = settle_claim(m, st, w, settlement, row)
    end
  end
  return true
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
  local last_token, last_answer, lease_ms = unpack(space.call('HMGET', worker, 'settle_token', 'settle_answer', 'lease_ms'))
  if last_token == token then return last_answer end
  m.is_known = lease_ms
  local settlements, ids, answers, by_study = cmsgpack.unpack(args[3]), {}, {}, {}
  for i, settlement in ipairs(settlements) do
    if not is_sound(settlement) then return redis.error_reply('ERR settle: runs do not add up') end
    ids[i] = settlement[Settlement.claim]
    local s = claims.study_of(ids[i])
    by_study[s] = by_study[s] or {}
    table.insert(by_study[s], i)
  end
  local raws = #ids > 0 and space.call('HMGET', names.worker_claims(m.root, w), unpack(ids)) or {}
  for s, places in pairs(by_study) do
    if not protect(m, s, settle_study, studies.of(m, s), w, settlements, raws, places, answers) then
      for _, at in ipairs(places) do
        answers[at] = 'gone'
        claims.finish(m, w, ids[at])
      end
    end
  end
  todo.finish(m)
  local answer = cmsgpack.pack({answers, m.has_retries and retries.due_ms(m) or -1, m.ended_instances})
  -- Tokens of a worker grow. An older one is a copy that comes late: its claims have moved on, so it changed nothing; nor may
  -- its answer take the place of the newest, which may yet be asked for again.
  if m.is_known and tonumber(token) > lenient(last_token) then
    redis.call('HSET', worker, 'settle_token', token, 'settle_answer', answer)
  end
  return answer
end
