#!lua flags=allow-oom
-- claim: give a worker ranges of samples for its free slots.
--
-- KEYS[1] root; ARGV[1] worker, [2] token of the request, a number, [3] request as msgpack:
--   [free slots, [queue, …] in the order to look, [study not wanted, …], root study or '' for any,
--    milliseconds until the worker's allocation ends or -1, room or nil: then free slots are all that counts]
--   room  [free and total amounts by name of resource, whether what needs too many CPUs is passed over, kept or nil]
--   kept  [queue, '<study>:<class>', spare amounts, window in ms]: room that is kept for that class. Of its priority or
--         less, others may take the spare, or more if they are expected to end within the window.
-- Returns msgpack [status, [[claim, study, node, lo, hi, attempt, losses, resume, edition], …], more, due_ms, untended]; and
--   with a room, of each claim the pace in ms (0: unknown) and the amounts that it takes, and then waiting, unfit, is_kept:
--   status  ok | unknown (no lease: beat first) | drain
--   more    1 if there is unfinished release work: claim again at once
--   due_ms  milliseconds until the next retry of any study is due, or -1
--   untended  1 if nobody sweeps, or one whose lease is shorter than this worker's: beat, and be the one
--   waiting [[queue, '<study>:<class>', amounts]] of the first that did not fit into what is free, or []
--   unfit   ['<study>:<class>', …] that this worker can never run, some of them
--   is_kept 1 if something was passed over only for the room that is kept
-- It is a sign of life, too: the lease begins anew. So a claim never stands under an old lease, and who waits for work need
-- not beat.
-- Invariants: a range is in a stream, or in exactly one claim, or settled. Claims take no more than is free. A claim number
-- is never used again: it follows the clock in microseconds, so that a server that lost its last second does not issue one
-- twice.
-- Idempotent: the same token gets the same answer. Tokens of a worker grow: an older one is a request that was sent again
-- long ago, and its copy comes late; it claims nothing, for nobody would hear of it. Cost: O(claims) + one piece of todo.

-- Idle workers look for work every few seconds, and the prelude costs more than a look: where nothing is on any of the queues,
-- nothing is to be done for anybody, and somebody tends, a known worker is answered before it.
do
  local call, root, w, token = redis.call, KEYS[1], ARGV[1], ARGV[2]
  local names = {root .. 'todo', root .. 'later'}
  for i, queue in ipairs(cmsgpack.unpack(ARGV[3])[2]) do names[i + 2] = root .. 'queue:' .. queue end
  if call('EXISTS', unpack(names)) == 0 then
    local t, times = call('TIME'), call('MGET', root .. 'set_back', root .. 'swept', root .. 'tend')
    local now_ms = math.floor(t[1] * 1000 + t[2] / 1000) + (tonumber(times[1]) or 0)
    local tended_ms, tenders_lease_ms = string.match(times[3] or '', '^(%d+) %S+ (%d+)$')
    tended_ms, tenders_lease_ms = tonumber(tended_ms) or 0, tonumber(tenders_lease_ms) or 0
    local facts = call('HMGET', root .. 'worker:' .. w, 'claim_token', 'request', 'lease_ms')
    local is_next = facts[2] ~= 'drain' and tonumber(token) > (tonumber(facts[1]) or 0)
    local is_tended = tended_ms > now_ms and tenders_lease_ms >= (tonumber(facts[3]) or 0)
    if is_next and facts[3] and is_tended and (tonumber(times[2]) or 0) <= now_ms
      and call('ZADD', root .. 'workers', 'XX', 'CH', string.format('%d', now_ms + facts[3]), w) == 1 then
      local answer = cmsgpack.pack({'ok', {}, 0, -1, 0})
      call('HSET', root .. 'worker:' .. w, 'claim_token', token, 'claim_answer', answer)
      return answer
    end
  end
end

-- prelude --

-- A bite that the user chose may be so long.
local CHUNK_MS = 60000
-- A bite while samples of the node that were lost wait for their turn.
local LOST_BITE_MS = 50
-- Claims, entries read and streams looked at in one call.
local FREE_MOST, READS_MOST, LOOK_MOST = 64, 128, 1024
-- Classes that a worker can't run, in one answer.
local UNFIT_MOST = 16

local w, token = ARGV[1], tonumber(ARGV[2])
local request = cmsgpack.unpack(ARGV[3])
local queues, unwanted, family, time_left, room = request[2], request[3], request[4], request[5], request[6]
-- Amounts that nobody has taken; and how many claims of the class in hand may be made of them.
local amounts, free = room and room[1] or {slots = request[1]}, 0
local kept = room and room[4]
local worker = root .. 'worker:' .. w
if not call('ZSCORE', root .. 'workers', w) then return cmsgpack.pack({'unknown', {}, 0, -1, 0}) end
local facts = call('HMGET', worker, 'claim_token', 'claim_answer', 'request', 'lease_ms')
local answered = tonumber(facts[1] or 0)
if token == answered then return facts[2] end
if token < answered then return cmsgpack.pack({'ok', {}, 0, -1, 0}) end
if facts[3] == 'drain' then return cmsgpack.pack({'drain', {}, 0, -1, 0}) end

local unfinished = {running = true, stopping = true}
local avoid = {}
for _, s in ipairs(unwanted) do avoid[s] = true end
local claims = {}
local last = max(tonumber(call('GET', root .. 'claims') or 0), now_us())

local function decode_list(text)
  if not text then return {} end
  local is_ok, value = pcall(cjson.decode, text)
  return is_ok and type(value) == 'table' and value or nil
end

local studies = {}
local function read_study(s)
  local study = call('HMGET', study_key(s), 'state', 'root', 'walltimes', 'is_held', 'edition', 'demands', 'priority')
  if not unfinished[study[1]] then return study end
  worked_on[s] = true
  if time_left >= 0 then study.walltimes = decode_list(study[3]) end
  -- How long it takes is not to be guessed. Demands that can't be read are those of most steps.
  if time_left >= 0 and not study.walltimes then damaged[s] = true end
  if room then study.demands, study.needs = decode_list(study[6]) or {}, {} end
  return study
end

local function wants(s, class)
  if not studies[s] then
    studies[s] = read_study(s)
  end
  local study = studies[s]
  if damaged[s] or avoid[s] or study[1] ~= 'running' or study[4] == '1' or (family ~= '' and study[2] ~= family) then return false end
  if time_left < 0 then return true end
  local walltime_s = tonumber(study.walltimes[tonumber(class) + 1]) or 0
  return walltime_s == 0 or walltime_s * 1000 <= time_left
end

-- What a claim of a class takes: of most it is what `plain` says, and then nothing is stored.
local plain = room and {slots = 1, cpus = 1} or {slots = 1}
local function read_demand(demand)
  if type(demand) ~= 'table' or type(demand[1]) ~= 'table' then return plain end
  local needs, total = {}, room[2]
  for name, amount in pairs(demand[1]) do needs[tostring(name)] = max(1, tonumber(amount) or 1) end
  if demand[2] == true then needs.cpus = max(needs.cpus or 1, total.cpus) end
  if demand[2] == true and total.gpus then needs.gpus = max(needs.gpus or 1, total.gpus) end
  if not room[3] and needs.cpus then needs.cpus = min(needs.cpus, total.cpus) end
  return needs
end
local function needs_of(s, class)
  local study, number = studies[s], tonumber(class) + 1
  if not room or not study[6] then return plain end
  if not study.needs[number] then study.needs[number] = read_demand(study.demands[number]) end
  return study.needs[number]
end

local function how_many(needs, has)
  local n = FREE_MOST - #claims
  for name, amount in pairs(needs) do n = min(n, floor((has[name] or 0) / amount)) end
  return n
end

local function spend(needs, has, n)
  for name, amount in pairs(needs) do has[name] = (has[name] or 0) - n * amount end
end

-- Is a stream behind the one for which room is kept? Those of queues named before, or of a higher priority, are not.
local queue_index = 1
local function is_behind_kept(s, member)
  if not kept or (member == kept[2] and queues[queue_index] == kept[1]) then return false end
  if queues[queue_index] == kept[1] then
    kept.priority = kept.priority or whole(call('HGET', study_key(string.match(kept[2], '^(.*):')), 'priority'))
    return whole(studies[s][7]) <= kept.priority
  end
  for i = 1, queue_index do if queues[i] == kept[1] then return true end end
  return false
end

-- The pace of the node whose samples a stream would give next; nil if nobody knows. Reads only.
local function peek_pace(s, stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  local last = not groups.err and groups[1] and groups[1][8]
  local entry = last and call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]
  local n = entry and string.match(entry[2][2] or '', '^%*?(%d+)')
  return n and tonumber(call('HGET', node_key(s, n), 'pace_ms'))
end

-- How many claims of a class the worker has room for, and in how many ms they must end (nil: whenever they do). What is
-- passed over is noted; but a class that got claims in this call does not wait.
local waiting, unfit, is_kept, window_ms, passed, served = nil, {}, 0, nil, 0, {}
local function find_room(s, class, member, stream)
  local needs = needs_of(s, class)
  window_ms = nil
  local n = how_many(needs, amounts)
  if n < 1 and #claims < FREE_MOST then
    passed = passed + 1
    if how_many(needs, room[2]) < 1 then
      if #unfit < UNFIT_MOST then unfit[#unfit + 1] = member end
    elseif not waiting and not served[stream] then
      waiting = {queues[queue_index], member, needs}
    end
  elseif n >= 1 and is_behind_kept(s, member) then
    local spare = how_many(needs, kept[3])
    if spare >= 1 then return min(n, spare) end
    local pace_ms = kept[4] > 0 and peek_pace(s, stream)
    if not pace_ms or pace_ms > kept[4] then
      is_kept, passed = 1, passed + 1
      return 0
    end
    window_ms = kept[4]
  end
  return n
end

-- How many samples one claim takes: about a second of work, and never so many that other slots would go without.
local pace = 0
local function bite(s, node, task)
  local facts = call('HMGET', node.key, 'pace_ms', 'lost')
  local known_ms = tonumber(facts[1])
  pace = known_ms or 0
  if task.losses > 0 then return 1 end
  -- Lost samples go one by one: between bites of a second they would wait for minutes.
  local has_lost = whole(facts[2]) > 0
  -- The user's own bite: only slow samples make it smaller.
  local most_ms = window_ms or CHUNK_MS
  if node.chunk > 0 then
    return max(1, min(node.chunk, floor(min(has_lost and LOST_BITE_MS or CHUNK_MS, most_ms) / max(known_ms or 0, 1))))
  end
  local pace_ms = known_ms or BITE_MS
  local slots = max(1, tonumber(call('HGET', root .. 'slots', node.queue) or 1))
  local share = floor((task.hi - task.lo) / (2 * slots))
  return max(1, min(floor(min(has_lost and LOST_BITE_MS or BITE_MS, most_ms) / max(pace_ms, 0.01)), share, BITE_MOST))
end

-- Records of the claims from one entry, and how many samples they are: written together.
local records, taken = {}, 0

local function hold(s, node, entry, task, hi)
  last = last + 1
  records[#records + 1] = int(last)
  records[#records + 1] = cmsgpack.pack({s, node.queue, node.class, entry, node.n, task.lo, hi, task.attempt, task.losses,
    task.resume})
  taken = taken + hi - task.lo
  claims[#claims + 1] = {last, s, node.n, task.lo, hi, task.attempt, task.losses, task.resume,
    whole(studies[s][5]), room and pace, room and needs_of(s, node.class)}
end

-- Bites of one entry for all free slots. Samples that are settled already (a study that was opened again) are passed over.
local function take(s, stream, entry, task)
  local node = node_of(s, task.node)
  forget_open(s, task.node, task)
  local k, held = bite(s, node, task), 0
  local has_done = find(s, node, 'done', task.lo, min(task.hi, task.lo + k * free), 1)
  while free > 0 and task.lo < task.hi do
    local from = has_done and (find(s, node, 'done', task.lo, task.hi, 0) or task.hi) or task.lo
    if from > task.lo then
      count_samples(s, node, 'ready', task.lo - from)
      count_lost(s, node, task, task.lo - from)
    end
    task.lo = from
    if from < task.hi then
      local upto = min(task.hi, from + k)
      if has_done then upto = find(s, node, 'done', from, upto, 1) or upto end
      hold(s, node, entry, task, upto)
      task.lo, free, held = upto, free - 1, held + 1
    end
  end
  if task.lo < task.hi then put(s, node, task) end
  return held
end

-- The same of loose samples: of an entry that stands for bits.
local function take_loose(s, stream, entry, task)
  local name = task.loose
  local key, book = study_key(s) .. ':loose:' .. name, study_key(s) .. ':loose'
  local node = node_of(s, task.node)
  local left, held, at = whole(call('HGET', book, name)), 0, 0
  task.lo, task.hi = task.base, min(node.size, task.base + LOOSE_CHUNK)
  local k = bite(s, node, task)
  while free > 0 and left > 0 do
    at = call('BITPOS', key, 1, at, -1, 'BIT')
    if at < 0 then break end
    local stop = call('BITPOS', key, 0, at, -1, 'BIT')
    stop = min(stop < 0 and call('STRLEN', key) * 8 or stop, at + k)
    fill_bits(key, at, stop, 0)
    left = left - (stop - at)
    task.lo, at = task.base + at, stop
    hold(s, node, entry, task, task.base + stop)
    free, held = free - 1, held + 1
  end
  if left <= 0 or at < 0 then
    call('UNLINK', key)
    call('HDEL', book, name)
    -- Somebody deleted the bits: these samples can't be found again.
    if left > 0 then fail_planless(s) end
  else
    call('HSET', book, name, int(left))
    add_entry(s, node, stream, '*' .. name)
  end
  return held
end

-- The group was destroyed from outside: make it anew, after the last entry that a claim comes from. Entries are delivered in
-- the order of their ids, so what is left undelivered stands behind it. O(workers and their claims), but only then.
local function renew_group(stream, queue, s, class)
  local last, last_ms, last_number = '0', -1, -1
  local prefix = '=' .. queue .. ' ' .. s .. ' ' .. class .. ' '
  for _, other in ipairs(call('ZRANGE', root .. 'workers', 0, -1)) do
    for _, field in ipairs(call('HKEYS', held_key(other))) do
      local id = string.sub(field, 1, #prefix) == prefix and string.sub(field, #prefix + 1)
      local ms, number = string.match(id or '', '^(%d+)%-(%d+)$')
      ms, number = tonumber(ms or -1), tonumber(number or -1)
      if ms > last_ms or (ms == last_ms and number > last_number) then last, last_ms, last_number = id, ms, number end
    end
  end
  call('XGROUP', 'CREATE', stream, 'workers', last)
end

-- The next entry of a stream; nil when it has none, and false when it is lost: a queue's zset names only streams that are.
local function read_one(stream, queue, s, class)
  if call('TYPE', stream).ok ~= 'stream' then return false end
  call('SADD', streams_key(w), stream)
  local words = {'XREADGROUP', 'GROUP', 'workers', w, 'COUNT', 1, 'STREAMS', stream, '>'}
  local reply = redis.pcall(unpack(words))
  if reply and reply.err then
    renew_group(stream, queue, s, class)
    reply = call(unpack(words))
  end
  return reply and reply[1][2][1] or nil
end

-- What an entry stands for: a range, or loose samples.
local function parse_entry(text)
  if string.sub(text, 1, 1) == '*' then return parse_loose(string.sub(text, 2)) end
  return parse_task(text)
end

-- Claims were made: there is less room; and none has to be kept for a class that got its turn.
local function spend_room(s, class, member, n)
  local needs = needs_of(s, class)
  spend(needs, amounts, n)
  served[stream_key(queues[queue_index], s, class)] = n > 0
  if is_behind_kept(s, member) then
    if not window_ms then spend(needs, kept[3], n) end
  elseif kept and n > 0 and member == kept[2] then
    kept = nil
  end
end

-- Read one entry of a stream. False when it has none.
local function serve(queue, s, class)
  worked_on[s] = true
  local stream = stream_key(queue, s, class)
  local entry = read_one(stream, queue, s, class)
  local task = entry and parse_entry(entry[2] and entry[2][2] or '')
  local member = s .. ':' .. class
  local of_node = task and node_of(s, task.node)
  if entry and not (of_node and (task.loose or (task.lo < task.hi and task.hi <= of_node.size))) then
    call('XACK', stream, 'workers', entry[1])
    call('XDEL', stream, entry[1])
    entry = false
  end
  if not entry then
    call('ZREM', root .. 'queue:' .. queue, member)
    if entry == false then
      fail_planless(s)
      studies[s] = nil
    end
    return false
  end
  local held = (task.loose and take_loose or take)(s, stream, entry[1], task)
  if held > 0 then
    local node = of_node
    call('HSET', held_key(w), unpack(records))
    count_samples(s, node, 'ready', -taken)
    count_samples(s, node, 'running', taken)
    count_lost(s, node, task, -taken)
    records, taken = {}, 0
    call('HINCRBY', held_key(w), '=' .. queue .. ' ' .. s .. ' ' .. class .. ' ' .. entry[1], held)
  else
    call('XACK', stream, 'workers', entry[1])
    call('XDEL', stream, entry[1])
  end
  local turn = call('INCR', root .. 'turn')
  local priority = whole(studies[s][7])
  call('ZADD', root .. 'queue:' .. queue, 'XX', int(-priority * 4294967296 + turn), member)
  spend_room(s, class, member, held)
  return true
end

-- Serve the first stream of a queue, from a rank on, that this worker wants. Returns its rank, or nil when there is none.
local function serve_first(queue, rank)
  local looked = 0
  while looked < LOOK_MOST do
    local members = call('ZRANGE', root .. 'queue:' .. queue, rank, rank + 63)
    for _, member in ipairs(members) do
      local s, class = string.match(member, '^(.*):(%d+)$')
      if wants(s, class) then
        free = find_room(s, class, member, stream_key(queue, s, class))
        if free < 1 then
          rank = rank + 1
        elseif serve(queue, s, class) then
          return rank
        end
      elseif unfinished[studies[s][1]] then
        rank = rank + 1
      else
        -- Its study is gone, or has ended: what is left of it here is nobody's.
        call('UNLINK', stream_key(queue, s, class))
        call('ZREM', root .. 'queue:' .. queue, member)
      end
    end
    looked = looked + #members
    if #members < 64 then return nil end
  end
  return nil
end

if facts[4] then call('ZADD', root .. 'workers', int(now_ms() + facts[4]), w) end
is_resuming = true
local due_ms = put_due()
local reads = 0
for i, queue in ipairs(queues) do
  local rank, passed_before = 0, passed
  queue_index = i
  while ((amounts.slots or 0) > 0 or (amounts.jobs or 0) > 0) and #claims < FREE_MOST and reads < READS_MOST and rank do
    rank, reads = serve_first(queue, rank), reads + 1
  end
  -- Wake the next one if there is more; not when nothing here was for this worker, or it would wake itself for ever. But
  -- one that has no room for it does not listen, and others may have.
  if (#claims > 0 or passed > passed_before) and call('ZCARD', root .. 'queue:' .. queue) > 0 then ring(queue) end
end
finish_move()
local more = call('EXISTS', root .. 'todo')
local answer = {'ok', claims, more, due_ms, best_tender(w) == w and tender() ~= w and 1 or 0}
if room then answer[6], answer[7], answer[8] = {waiting}, unfit, is_kept end
answer = cmsgpack.pack(answer)
if #claims > 0 then call('SET', root .. 'claims', int(last)) end
call('HSET', worker, 'claim_token', int(token), 'claim_answer', answer)
return answer
