#!lua flags=allow-oom
-- settle: account what happened to samples of some claims, and release what became ready by it.
--
-- KEYS[1] root; ARGV[1] worker, [2] token of the request, [3] msgpack [[claim, lo, upto, runs, elapsed_ms, reasons], …]:
--   claim       its number, as text
--   lo, upto    accounts [lo, upto); lo must be where the claim stands
--   runs        [[n, state, resume, flags], …], in order; the n add up to upto - lo
--               state   finished | failed | dead | cancelled | retry
--               flags   1 blocking · 2 stops the study · 4 stops the workers
--   elapsed_ms  the sum over those samples
--   reasons     [[sample, sealed text], …] of samples that failed
-- Returns msgpack [answer for each claim, due_ms, ended_nodes]: ok | lost (not yours, nothing was changed) | gone (the study
--   is) | stopping (accounted; nothing more of the study is to be started); milliseconds until the next retry, or -1; and of
--   how many nodes the last sample was settled.
-- Invariants: each sample is counted once (fenced by claim number and lo); what it makes ready is put in the same move or
-- stands on todo. Idempotent: the same token gets the same answer. Cost: O(runs), at most ITEMS children; the rest on todo.

local w, token = ARGV[1], ARGV[2]
local worker = root .. 'worker:' .. w
local facts = call('HMGET', worker, 'settle_token', 'settle_answer')
if facts[1] == token then return facts[2] end
-- Tokens of a worker grow. An older one is a copy that comes late: its claims have moved on, so it changes nothing; nor may its
-- answer take the place of the newest, which may yet be asked for again.
local is_newest = tonumber(token) > whole(facts[1])

local groups = cmsgpack.unpack(ARGV[3])
for _, g in ipairs(groups) do
  local n, is_sound = 0, g[5] >= 0 and g[5] < 1e15
  for _, run in ipairs(g[4]) do n, is_sound = n + run[1], is_sound and run[1] >= 1 end
  if n ~= g[3] - g[2] or not is_sound then return redis.error_reply('ERR settle: runs do not add up') end
end

-- A running mean of milliseconds a sample, from which bites are made.
local function keep_pace(node, samples, elapsed_ms)
  local key = node.key
  local mean = elapsed_ms / samples
  local old = paces[key] or tonumber(call('HGET', key, 'pace_ms'))
  paces[key] = old and (old * 3 + mean) / 4 or mean
end

local function keep_times(s, node, samples, elapsed_ms)
  local key = node.step_key
  count(key, 'timed', samples)
  count(key, 'elapsed_ms', floor(elapsed_ms + 0.5))
  local bucket = floor(math.log(max(elapsed_ms / samples, 1)) / math.log(2))
  count(key, 'log2_ms:' .. bucket, samples)
end

local function keep_reasons(s, node, reasons)
  local key = study_key(s) .. ':reasons'
  for _, reason in ipairs(reasons) do
    if call('HLEN', key) < REASONS_MOST then call('HSET', key, node.n .. ':' .. int(reason[1]), reason[2]) end
  end
end

-- One run of samples that ended alike. Returns true if they are settled: retries are not.
local function settle_run(r, node, lo, run)
  local hi, state, resume, flags = lo + run[1], run[2], run[3], run[4]
  local is_running = not is_stopping(r.s)
  if state == 'retry' and is_running then
    count_samples(r.s, node, 'retrying', run[1])
    put_later(r.s, node, {lo = lo, hi = hi, attempt = r.attempt + 1, losses = r.losses, resume = resume},
      node.delay_ms)
    return false
  end
  if state == 'retry' then state = 'cancelled' end
  -- Before the accounting: if this is the study's last sample, the study ends there, and is to end as failed.
  if flags % 4 >= 2 then
    stop_study(r.s, 'failed', 'sample ' .. int(lo) .. ' of node ' .. node.n .. ' stopped the study', 0)
  end
  if flags >= 4 then
    -- This worker by name: it may hold no other claim of the study, and serve other queues too.
    if call('EXISTS', worker) == 1 then call('HSET', worker, 'request', 'drain') end
    plan_action(r.s, 'stop_workers')
  end
  account(r.s, node, lo, hi, state, flags % 2 == 1)
  return true
end

-- From `lo` on a stretch is settled, the next is not, and so on: `lengths` are theirs, by turns.
local function announce(s, node, lo, lengths)
  if #lengths == 1 then return tell_children(s, node, lo, lo + lengths[1]) end
  if node.each_chunks > 0 and #lengths > 0 then plan_action(s, 'settled_by_turns', node.n, lo, lengths) end
end

local function settle_claim(claim, g, r, node)
  local lo, since = g[2], g[2]
  count_samples(r.s, node, 'running', g[2] - g[3])
  -- Before the runs: the last of them may end the study, and its keys with it.
  keep_pace(node, g[3] - g[2], g[5])
  keep_times(r.s, node, g[3] - g[2], g[5])
  keep_reasons(r.s, node, g[6])
  -- Children hear of settled stretches only: a retry between them is announced when it is settled itself.
  local lengths, is_settled = {}, false
  for _, run in ipairs(g[4]) do
    if settle_run(r, node, lo, run) ~= is_settled then
      is_settled = not is_settled
      if is_settled and #lengths >= ITEMS then
        announce(r.s, node, since, lengths)
        lengths, since = {}, lo
      end
      lengths[#lengths + 1] = 0
    end
    if #lengths > 0 then lengths[#lengths] = lengths[#lengths] + run[1] else since = lo + run[1] end
    lo = lo + run[1]
  end
  announce(r.s, node, since, lengths)
  r.lo = g[3]
  if r.lo < r.hi then write_claim(w, claim, r) else end_claim(w, claim, r) end
  if is_stopping(r.s) then plan_action(r.s, 'idle') end
end

local answers = {}
for i, g in ipairs(groups) do
  local claim = g[1]
  local r = read_claim(w, claim)
  local state = r and state_of(r.s)
  local node = r and node_of(r.s, r.node)
  if not r or r.lo ~= g[2] or g[3] > r.hi or g[3] <= r.lo then
    answers[i] = 'lost'
  elseif state ~= 'running' and state ~= 'stopping' then
    end_claim(w, claim, r)
    answers[i] = 'gone'
  elseif not node then
    give_back(w, claim, r, r.lo, r.losses)
    answers[i] = 'gone'
  else
    settle_claim(claim, g, r, node)
    answers[i] = is_stopping(r.s) and 'stopping' or 'ok'
  end
end
finish_move()
local first = call('ZRANGE', root .. 'later', 0, 0, 'WITHSCORES')
local due_ms = first[2] and max(0, tonumber(first[2]) - now_ms()) or -1
local answer = cmsgpack.pack({answers, due_ms, ended_nodes})
if is_newest and call('EXISTS', worker) == 1 then call('HSET', worker, 'settle_token', token, 'settle_answer', answer) end
return answer
