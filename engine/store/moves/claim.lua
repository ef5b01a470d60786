#!lua flags=allow-oom
-- claim: give a worker ranges of samples for its free slots.
--
-- KEYS[1] root; ARGV[1] worker, [2] token of the request, [3] request as msgpack:
--   [free slots, [queue, …] in the order to look, [study not wanted, …], root study or '' for any,
--    milliseconds until the worker's allocation ends or -1]
-- Returns msgpack [status, [[claim, study, node, lo, hi, attempt, losses, resume], …], more, due_ms]:
--   status  ok | unknown (no lease: beat first) | drain
--   more    1 if there is unfinished release work: claim again at once
--   due_ms  milliseconds until the next retry of any study is due, or -1
-- Invariants: a range is in a stream, or in exactly one claim, or settled. A claim number is never used again: it follows
-- the clock in microseconds, so that a server that lost its last second does not issue one twice.
-- Idempotent: the same token gets the same answer. Cost: O(claims) + one piece of todo.

local w, token = ARGV[1], ARGV[2]
local request = cmsgpack.unpack(ARGV[3])
local free, queues, unwanted, family, time_left = request[1], request[2], request[3], request[4], request[5]
local worker = root .. 'worker:' .. w
if not call('ZSCORE', root .. 'workers', w) then return cmsgpack.pack({'unknown', {}, 0, -1}) end
local facts = call('HMGET', worker, 'claim_token', 'claim_answer', 'request')
if facts[1] == token then return facts[2] end
if facts[3] == 'drain' then return cmsgpack.pack({'drain', {}, 0, -1}) end

local avoid = {}
for _, s in ipairs(unwanted) do avoid[s] = true end
local claims = {}
local last = max(tonumber(call('GET', root .. 'claims') or 0), now_us())

local function wants(s, class)
  if avoid[s] then return false end
  local study = call('HMGET', study_key(s), 'state', 'root', 'walltimes')
  if study[1] ~= 'running' or (family ~= '' and study[2] ~= family) then return false end
  if time_left < 0 then return true end
  local walltime_s = cjson.decode(study[3])[tonumber(class) + 1]
  return walltime_s == 0 or walltime_s * 1000 <= time_left
end

-- How many samples one claim takes: about a second of work, and never so many that other slots would go without.
local function bite(s, node, task)
  if task.losses > 0 then return 1 end
  if node.chunk > 0 then return node.chunk end
  local pace_ms = tonumber(call('HGET', node_key(s, node.n), 'pace_ms') or BITE_MS)
  local slots = max(1, tonumber(call('HGET', root .. 'slots', node.queue) or 1))
  local share = floor((task.hi - task.lo) / (2 * slots))
  return max(1, min(floor(BITE_MS / max(pace_ms, 0.01)), share, BITE_MOST))
end

local function hold(s, node, entry, task, hi)
  last = last + 1
  write_claim(w, int(last), {s = s, queue = node.queue, class = node.class, entry = entry, node = node.n, lo = task.lo,
    hi = hi, attempt = task.attempt, losses = task.losses, resume = task.resume})
  count_samples(s, node, 'ready', task.lo - hi)
  count_samples(s, node, 'running', hi - task.lo)
  claims[#claims + 1] = {last, s, node.n, task.lo, hi, task.attempt, task.losses, task.resume}
end

-- Bites of one entry for all free slots. Samples that are settled already (a study that was opened again) are passed over.
local function take(s, stream, entry, task)
  local node = node_of(s, task.node)
  forget_open(s, task.node, task)
  local k, held = bite(s, node, task), 0
  while free > 0 and task.lo < task.hi do
    local from = find(s, node, 'done', task.lo, task.hi, 0) or task.hi
    if from > task.lo then count_samples(s, node, 'ready', task.lo - from) end
    task.lo = from
    if from < task.hi then
      local upto = min(task.hi, from + k)
      upto = find(s, node, 'done', from, upto, 1) or upto
      hold(s, node, entry, task, upto)
      task.lo, free, held = upto, free - 1, held + 1
    end
  end
  if task.lo < task.hi then put(s, node, task) end
  if held > 0 then
    call('HINCRBY', held_key(w), '=' .. node.queue .. ' ' .. s .. ' ' .. node.class .. ' ' .. entry, held)
  else
    call('XACK', stream, 'workers', entry)
    call('XDEL', stream, entry)
  end
end

-- Read one entry of a stream. False when it has none.
local function serve(queue, s, class)
  local stream = stream_key(queue, s, class)
  local reply = call('EXISTS', stream) == 1
    and call('XREADGROUP', 'GROUP', 'workers', w, 'COUNT', 1, 'STREAMS', stream, '>')
  local member = s .. ':' .. class
  if not reply then
    call('ZREM', root .. 'queue:' .. queue, member)
    return false
  end
  local entry = reply[1][2][1]
  local task = parse_task(entry[2] and entry[2][2])
  if task and node_of(s, task.node) then
    take(s, stream, entry[1], task)
  else
    call('XACK', stream, 'workers', entry[1])
    call('XDEL', stream, entry[1])
  end
  local turn = call('INCR', root .. 'turn')
  local priority = tonumber(call('HGET', study_key(s), 'priority') or 0)
  call('ZADD', root .. 'queue:' .. queue, 'XX', int(-priority * 4294967296 + turn), member)
  return true
end

is_resuming = true
local due_ms = put_due()
for _, queue in ipairs(queues) do
  local is_served = true
  while free > 0 and is_served do
    is_served = false
    for _, member in ipairs(call('ZRANGE', root .. 'queue:' .. queue, 0, 63)) do
      local s, class = string.match(member, '^(.*):(%d+)$')
      if free > 0 and not is_served and wants(s, class) then is_served = serve(queue, s, class) end
    end
  end
  -- Wake the next one if there is more; not when nothing here was for this worker, or it would wake itself for ever.
  if #claims > 0 and call('ZCARD', root .. 'queue:' .. queue) > 0 then ring(queue) end
end
finish_move()
local more = call('EXISTS', root .. 'todo')
local answer = cmsgpack.pack({'ok', claims, more, due_ms})
if #claims > 0 then
  call('SET', root .. 'claims', int(last))
  call('HSET', worker, 'claim_token', token, 'claim_answer', answer)
end
return answer
