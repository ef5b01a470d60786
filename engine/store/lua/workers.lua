-- Workers: who is known, what a dead one leaves behind, and how one is asked to stop.

local workers = {}

-- A worker hears of it with its next beat, or look for work; its own bell wakes one that waits for work.
function workers.ask_to_drain(m, w)
  space.call('HSET', names.worker(m.root, w), 'request', 'drain')
  space.ring(m, names.worker_bell(m.root, w))
end

function workers.queues(text) return string.gmatch(text or '', '[^,]+') end

-- A worker lives for another lease.
function workers.renew(m, w, lease_ms)
  space.call('ZADD', names.workers(m.root), int(clock.now_ms(m) + lease_ms), w)
end

-- What `resume` becomes of what a dead worker left behind: all of it may have been started, also what is not counted as lost.
local LEFT = {[0] = 2, [1] = 3, [2] = 2, [3] = 3}

-- Everything that a worker leaves behind. `loss` is 1 if its claims count as lost; at most `most` of them are given back.
-- Returns whether it is gone, and how many claims more the caller may give back. Of one that was believed dead (`is_dead`) the
-- last token of its claims is kept for an hour: it may come back, and so may a late copy of a request of its, which would claim
-- what nobody would hear of.
function workers.remove(m, w, loss, most, is_dead)
  local key, claimed = names.worker(m.root, w), names.worker_claims(m.root, w)
  for _, claim in ipairs(space.call('HKEYS', claimed)) do
    if most <= 0 then return false, 0 end
    claims.return_whole(m, w, claim, loss, is_dead and LEFT)
    most = most - 1
  end
  local facts = space.fields(key, {'queues', 'slots', 'claim_token'})
  for queue in workers.queues(facts.queues) do space.count(names.slots(m.root), queue, -lenient(facts.slots)) end
  redis.call('UNLINK', key, claimed, names.worker_bell(m.root, w))
  if m.ended then m.ended[w] = nil end
  if is_dead and facts.claim_token then
    redis.call('HSET', key, 'claim_token', facts.claim_token, 'claim_answer', cmsgpack.pack({'unknown', {}, 0, -1, 0}))
    redis.call('EXPIRE', key, TOKEN_KEPT_S)
  end
  space.call('ZREM', names.workers(m.root), w)
  space.call('ZREM', names.leases(m.root), w)
  return true, most
end

-- Workers that hold a claim of the study, or listen only to its queues, are asked to drain (exit code 105). Who they may be is
-- noted at once: the study may be over before the last of them is looked at, and ranks move with every beat.
function work.stop_workers(m, st, items)
  local ours, part = {}, 0
  local streams = plan.streams(m, st, part)
  while streams do
    for _, pair in ipairs(streams) do ours[pair[1]] = 1 end
    part = part + 1
    streams = plan.streams(m, st, part)
  end
  local known = space.call('ZRANGE', names.workers(m.root), 0, -1)
  for from = 1, #known, 20 do
    studies.plan(m, st, 'drain_workers', {unpack(known, from, math.min(#known, from + 19))}, ours)
  end
  return items - 1
end

local function is_concerned(m, st, w, ours)
  local queues = space.call('HGET', names.worker(m.root, w), 'queues')
  local is_ours = queues ~= false
  for queue in workers.queues(queues) do is_ours = is_ours and ours[queue] ~= nil end
  for _, claim in ipairs(space.call('HKEYS', names.worker_claims(m.root, w))) do
    is_ours = is_ours or claims.study_of(claim) == st.id
  end
  return is_ours
end

function work.drain_workers(m, st, items, known, ours)
  for _, w in ipairs(known) do
    if is_concerned(m, st, w, ours) and space.call('ZSCORE', names.workers(m.root), w) then workers.ask_to_drain(m, w) end
    items = items - 5
  end
  return items
end
