-- claim: give a worker ranges of samples for its free slots.
--
-- ARGV[1] worker, [2] token of the request, a number, [3] msgpack ClaimRequest (records.py): free slots, queues in the order to
--   look, studies not wanted, root study or '' for any, milliseconds until the worker's allocation ends or -1, room or nil: then
--   free slots are all that counts.
-- Returns msgpack [status, [[claim, study, instance, lo, hi, attempt, losses, resume, edition], …], more, due_ms, unswept]; and
--   with a room, of each claim the pace in ms (0: unknown) and the amounts that it takes, and then waiting, unfit, is_kept:
--   status  ok | unknown (no lease: beat first) | drain
--   more    1 if there is unfinished release work: claim again at once
--   due_ms  milliseconds until the next retry of any study is due, or -1
--   unswept 1 if nobody sweeps, or one whose lease is shorter than this worker's: beat, and be the one
--   waiting [[queue, '<study>:<class>', amounts]] of the first that did not fit into what is free, or []
--   unfit   ['<study>:<class>', …] that this worker can never run, some of them
--   is_kept 1 if something was passed over only for the room that is kept
-- It is a sign of life, too: the lease begins anew. So a claim never stands under an old lease, and who waits for work need
-- not beat.
-- Invariants: a range is in a stream, or in exactly one claim, or settled. Claims take no more than is free. A claim number
-- is never used again.
-- Idempotent: the same token gets the same answer. Tokens of a worker grow: an older one is a request that was sent again
-- long ago, and its copy comes late; it claims nothing, for nobody would hear of it. Cost: O(claims) + one piece of todo.

-- A request in the middle of being answered: what is free, what was claimed, what was passed over. `amounts` are those that
-- nobody has taken, `spare` what others may take of the room that is kept for a class.
local function new_search(w, request)
  local room, unwanted = request[ClaimRequest.room], {}
  for _, s in ipairs(request[ClaimRequest.unwanted_studies]) do unwanted[s] = true end
  return {worker = w, queues = request[ClaimRequest.queues], unwanted = unwanted, root = request[ClaimRequest.root_study],
    left_ms = request[ClaimRequest.time_left_ms], room = room, kept = room and room[Room.kept] or nil,
    amounts = room and room[Room.free] or {slots = request[ClaimRequest.free_slots]},
    plain = room and {slots = 1, cpus = 1} or {slots = 1},
    claimed = {}, unfit = {}, is_kept = 0, passed = 0, served = {}, at = 0, waiting = false}
end

local FACTS = {'state', 'root', 'walltimes', 'is_held', 'edition', 'demands', 'priority'}

local function read_list(st, field)
  local text = counters.text(st.hash, field)
  return text and cjson.decode(text) or {}
end

-- May this worker have samples of the study's class?
local function wants(m, st, q, class)
  counters.fetch(st.hash, FACTS)
  if q.unwanted[st.id] or studies.state(st) ~= 'running' or counters.get(st.hash, 'is_held') == 1 then return false end
  if q.root ~= '' and counters.text(st.hash, 'root') ~= q.root then return false end
  if q.left_ms < 0 then return true end
  st.walltimes = st.walltimes or read_list(st, 'walltimes')
  local walltime_s = tonumber(st.walltimes[class + 1])
  if not walltime_s then error('a damaged list of walltimes', 0) end
  return walltime_s == 0 or walltime_s * 1000 <= q.left_ms
end

-- What a claim of a class takes: of most it is what `plain` says, and then nothing is stored.
local function read_demand(q, demand)
  if type(demand) ~= 'table' or type(demand[1]) ~= 'table' then return q.plain end
  local needs, total = {}, q.room[Room.total]
  for name, amount in pairs(demand[1]) do needs[tostring(name)] = math.max(1, tonumber(amount) or 1) end
  if demand[2] == true then needs.cpus = math.max(needs.cpus or 1, total.cpus) end
  if demand[2] == true and total.gpus then needs.gpus = math.max(needs.gpus or 1, total.gpus) end
  if not q.room[Room.is_strict] and needs.cpus then needs.cpus = math.min(needs.cpus, total.cpus) end
  return needs
end

local function needs_of(st, q, class)
  if not q.room or not counters.text(st.hash, 'demands') then return q.plain end
  st.demands, st.needs = st.demands or read_list(st, 'demands'), st.needs or {}
  st.needs[class] = st.needs[class] or read_demand(q, st.demands[class + 1])
  return st.needs[class]
end

local function how_many(q, needs, has)
  local n = FREE_MOST - #q.claimed
  for name, amount in pairs(needs) do n = math.min(n, math.floor((has[name] or 0) / amount)) end
  return n
end

local function spend(needs, has, n)
  for name, amount in pairs(needs) do has[name] = (has[name] or 0) - n * amount end
end

-- Is a stream behind the one for which room is kept? Those of queues named before, or of a higher priority, are not.
local function is_behind_kept(m, st, q, member)
  local queue = q.kept and q.kept[Kept.queue]
  if not queue or (member == q.kept[Kept.stream] and q.queues[q.at] == queue) then return false end
  if q.queues[q.at] == queue then
    local first = studies.of(m, string.match(q.kept[Kept.stream], '^(.*):') or '')
    local is_read, priority = pcall(studies.priority, first)
    return is_read and studies.priority(st) <= priority
  end
  for i = 1, q.at do if q.queues[i] == queue then return true end end
  return false
end

-- The pace of the instance whose samples a stream would give next; nil if nobody knows. Reads only.
local function peek_pace(m, st, stream)
  local _, task = ready.first(stream)
  return task and tonumber(counters.text(plan.instance(m, st, task.instance, task.step).hash, 'pace_ms'))
end

-- How many claims of a class the worker has room for; and in how many ms they must end, if they may only have room until then.
-- What is passed over is noted; but a class that got claims in this call does not wait.
local function find_room(m, st, q, class, member, stream)
  local needs = needs_of(st, q, class)
  local n = how_many(q, needs, q.amounts)
  if n < 1 and #q.claimed < FREE_MOST then
    q.passed = q.passed + 1
    if how_many(q, needs, q.room and q.room[Room.total] or q.amounts) < 1 then
      if #q.unfit < UNFIT_MOST then q.unfit[#q.unfit + 1] = member end
    elseif not q.waiting and not q.served[stream] then
      q.waiting = {q.queues[q.at], member, needs}
    end
  elseif n >= 1 and is_behind_kept(m, st, q, member) then
    local spare = how_many(q, needs, q.kept[Kept.spare])
    if spare >= 1 then return math.min(n, spare) end
    local window_ms = q.kept[Kept.window_ms]
    local pace_ms = window_ms > 0 and peek_pace(m, st, stream)
    if pace_ms and pace_ms <= window_ms then return n, window_ms end
    q.is_kept, q.passed = 1, q.passed + 1
    return 0
  end
  return n
end

-- How many samples one claim takes: about a second of work, and never so many that other slots would go without. While lost
-- samples of the instance wait, bites are short: between bites of a second these would wait for minutes, one by one.
local function bite_of(m, instance, task, window_ms)
  local pace_ms = tonumber(counters.text(instance.hash, 'pace_ms'))
  if task.losses > 0 then return 1 end
  local has_lost = counters.get(instance.hash, 'lost') > 0
  -- The user's own bite: only slow samples make it smaller.
  if instance.chunk > 0 then
    local most_ms = math.min(has_lost and LOST_BITE_MS or CHUNK_MS, window_ms or CHUNK_MS)
    return math.max(1, math.min(instance.chunk, math.floor(most_ms / math.max(pace_ms or 0, 1))))
  end
  local most_ms = math.min(has_lost and LOST_BITE_MS or BITE_MS, window_ms or CHUNK_MS)
  local bite = math.min(math.floor(most_ms / math.max(pace_ms or BITE_MS, 0.01)), BITE_MOST)
  if bite <= 1 or not task.hi then return math.max(1, bite) end
  local slots = math.max(1, lenient(space.call('HGET', names.slots(m.root), instance.queue)))
  return math.max(1, math.min(bite, math.floor((task.hi - task.lo) / (2 * slots))))
end

-- Claims from one entry of a stream: at most `most`. Returns how many. All of it is one protected call.
local function take(m, st, q, class, stream, most, window_ms)
  local id, task = ready.first(stream)
  -- A queue names only streams that have entries.
  if not id then error('missing samples that are ready', 0) end
  local instance = plan.instance(m, st, task.instance, task.step)
  counters.fetch(instance.hash, {'pace_ms', 'lost'})
  counters.fetch(st.hash, {'running', counters.name(instance, 'ready'), counters.name(instance, 'running')})
  local needs, edition = q.room and needs_of(st, q, class), counters.get(st.hash, 'edition')
  local pace = q.room and (tonumber(counters.text(instance.hash, 'pace_ms')) or 0)
  local words, found, samples = {}, {}, 0
  local function own(lo, hi)
    local number = clock.next_claim(m)
    words[#words + 1] = int(number) .. ':' .. st.id
    words[#words + 1] = rows.pack_claim(instance.queue, class, instance.number, instance.step, lo, hi, task.attempt, task.losses,
      task.resume)
    found[#found + 1] = {number, st.id, instance.number, lo, hi, task.attempt, task.losses, task.resume, edition, pace, needs}
    samples = samples + hi - lo
  end
  local bite = bite_of(m, instance, task, window_ms)
  if task.name then
    ready.take_scattered(m, st, instance, stream, id, task, bite, most, own)
  else
    if not plan.has(instance, task.lo, task.hi) then error('damaged samples that are ready', 0) end
    local lo = task.lo
    while lo < task.hi and #found < most do
      own(lo, math.min(task.hi, lo + bite))
      lo = math.min(task.hi, lo + bite)
    end
    ready.shorten(m, st, instance, stream, id, task, lo)
  end
  counters.count(st, instance, 'ready', -samples)
  counters.count(st, instance, 'running', samples)
  retries.count_lost(instance, task, -samples)
  space.call('HSET', names.worker_claims(m.root, q.worker), unpack(words))
  for _, one in ipairs(found) do q.claimed[#q.claimed + 1] = one end
  return #found
end

-- Claims were made: there is less room; and none has to be kept for a class that got its turn.
local function spend_room(m, st, q, class, member, n, window_ms, stream)
  local needs = needs_of(st, q, class)
  spend(needs, q.amounts, n)
  q.served[stream] = n > 0
  if is_behind_kept(m, st, q, member) then
    if not window_ms then spend(needs, q.kept[Kept.spare], n) end
  elseif q.kept and n > 0 and member == q.kept[Kept.stream] then
    q.kept = nil
  end
end

-- Looks at one stream: 'passed' if there was nothing in it for this worker, 'served' if it got something, 'gone' if the stream's
-- study has ended.
local function look_at(m, st, q, class, member, is_alone)
  local queue = q.queues[q.at]
  local stream = names.stream(m.root, queue, st.id, int(class))
  if not wants(m, st, q, class) then
    if studies.is_unfinished(st) then return 'passed' end
    redis.call('UNLINK', stream)
    return 'gone'
  end
  local most, window_ms = find_room(m, st, q, class, member, stream)
  if most < 1 then return 'passed' end
  -- It takes its turn behind the others, if there are any; what is put back below stands there, too.
  st.is_named[stream] = true
  if not is_alone then
    space.call('ZADD', names.queue(m.root, queue), 'XX', clock.next_turn(m, studies.priority(st)), member)
  end
  spend_room(m, st, q, class, member, take(m, st, q, class, stream, most, window_ms), window_ms, stream)
  return 'served'
end

-- Serves the first stream of a queue, from a rank on, that this worker wants. Returns its rank, or nil when there is none.
local function serve_first(m, q, queue, rank)
  local looked, key = 0, names.queue(m.root, queue)
  while looked < LOOK_MOST do
    local members = space.call('ZRANGE', key, rank, rank + 63)
    for _, member in ipairs(members) do
      local s, class = string.match(member, '^(.*):(%d+)$')
      local is_alone = rank == 0 and #members == 1
      local word = s and protect(m, s, look_at, studies.of(m, s), q, tonumber(class), member, is_alone) or 'gone'
      if word == 'served' then return rank end
      if word == 'gone' then space.call('ZREM', key, member) else rank = rank + 1 end
    end
    looked = looked + #members
    if #members < 64 then return nil end
  end
  return nil
end

local function is_anything_free(q)
  return ((q.amounts.slots or 0) > 0 or (q.amounts.jobs or 0) > 0) and #q.claimed < FREE_MOST
end

local function search(m, q)
  local reads = 0
  for at, queue in ipairs(q.queues) do
    local rank, passed_before = 0, q.passed
    q.at = at
    while is_anything_free(q) and reads < READS_MOST and rank do
      rank, reads = serve_first(m, q, queue, rank), reads + 1
    end
    -- Wake the next one if there is more; not when nothing here was for this worker, or it would wake itself for ever. But
    -- one that has no room for it does not listen, and others may have.
    if (#q.claimed > 0 or q.passed > passed_before) and not m.rung[names.bell(m.root, queue)]
      and space.call('ZCARD', names.queue(m.root, queue)) > 0 then space.ring(m, names.bell(m.root, queue)) end
  end
end

function verbs.claim(m, args)
  local w, token = args[1], tonumber(args[2])
  local worker = names.worker(m.root, w)
  local known, last_answer, asked, lease_ms = unpack(space.call('HMGET', worker, 'claim_token', 'claim_answer', 'request',
    'lease_ms'))
  if not lease_ms then return cmsgpack.pack({'unknown', {}, 0, -1, 0}) end
  local answered = lenient(known)
  if token == answered then return last_answer end
  if token < answered then return cmsgpack.pack({'ok', {}, 0, -1, 0}) end
  if asked == 'drain' then return cmsgpack.pack({'drain', {}, 0, -1, 0}) end
  lease_ms = lenient(lease_ms)
  local q = new_search(w, cmsgpack.unpack(args[3]))
  workers.renew(m, w, lease_ms)
  local due_ms = -1
  -- Most of the time nothing waits for its time, or for somebody to do it.
  if redis.call('EXISTS', names.todo(m.root), names.later(m.root)) > 0 then
    m.is_resuming = true
    due_ms = retries.put_due(m)
  end
  search(m, q)
  todo.finish(m)
  local more = m.has_left and 1 or m.is_resuming and redis.call('EXISTS', names.todo(m.root)) or 0
  local is_unswept = clock.is_to_sweep(m, w, lease_ms) and clock.sweeper(m) ~= w
  local answer = {'ok', q.claimed, more, due_ms, is_unswept and 1 or 0}
  if q.room then answer[6], answer[7], answer[8] = {q.waiting or nil}, q.unfit, q.is_kept end
  answer = cmsgpack.pack(answer)
  redis.call('HSET', worker, 'claim_token', int(token), 'claim_answer', answer)
  return answer
end
