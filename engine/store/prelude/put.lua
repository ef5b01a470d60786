-- put: samples become claimable, as ranges that merge, or as bits.

local function ring(queue)
  local bell = root .. 'bell:' .. queue
  if call('LLEN', bell) == 0 then call('RPUSH', bell, 1) end
end

-- Ranges of a node that nobody has claimed are found by their two ends, so that a new one joins those it touches.
local function forget_open(s, n, task)
  local open = study_key(s) .. ':open:' .. n
  local tag = task.attempt .. ':' .. task.losses .. ':' .. task.resume .. ':'
  call('HDEL', open, tag .. '<' .. int(task.lo), tag .. '>' .. int(task.hi))
end

local fail_planless

-- Add an entry to a node's stream, and let workers hear of it. Returns its id. A queue's zset names only streams that are:
-- one that it names and that is not was deleted from outside, with ready samples that nobody would ever claim.
local function add_entry(s, node, stream, text)
  local is_new = call('EXISTS', stream) == 0
  local id = call('XADD', stream, '*', 't', text)
  if is_new then call('XGROUP', 'CREATE', stream, 'workers', '0') end
  local member = s .. ':' .. node.class
  local queue = root .. 'queue:' .. node.queue
  local is_named = call('ZSCORE', queue, member)
  if is_new and is_named then fail_planless(s) end
  if not is_named then
    local priority = whole(call('HGET', study_key(s), 'priority'))
    call('ZADD', queue, int(-priority * 4294967296 + call('INCR', root .. 'turn')), member)
  end
  ring(node.queue)
  return id
end

-- Loose samples: those of a chunk of a node, in one attempt, that are ready, as bits. `study:<s>:loose` counts them; as long
-- as there are any, one entry `*<name>` of the stream stands for them all.
local function loose_name(node, task, c)
  return node.n .. ':' .. int(c) .. ':' .. task.attempt .. ':' .. task.losses .. ':' .. task.resume
end

local function parse_loose(name)
  local n, c, attempt, losses, resume = string.match(name, '^(%d+):(%d+):(%d+):(%d+):(%d+)$')
  if not n then return nil end
  return {node = tonumber(n), base = tonumber(c) * LOOSE_CHUNK, attempt = tonumber(attempt), losses = tonumber(losses),
          resume = tonumber(resume), loose = name}
end

-- Call `on_chunk` with the name of each chunk that a range is in, and with the bits [a, b) that it has there.
local function each_chunk(node, task, on_chunk)
  local lo = task.lo
  while lo < task.hi do
    local c = floor(lo / LOOSE_CHUNK)
    local base = c * LOOSE_CHUNK
    local stop = min(task.hi, base + LOOSE_CHUNK)
    on_chunk(loose_name(node, task, c), lo - base, stop - base)
    lo = stop
  end
end

local function count_loose(s, node, stream, name, by)
  if call('HINCRBY', study_key(s) .. ':loose', name, by) == by then add_entry(s, node, stream, '*' .. name) end
end

local function put_loose(s, node, stream, task)
  each_chunk(node, task, function(name, a, b)
    set_bits(study_key(s) .. ':loose:' .. name, a, b)
    count_loose(s, node, stream, name, b - a)
  end)
end

-- Make [task.lo, task.hi) claimable. The caller has counted it.
local function put(s, node, task)
  local stream = stream_key(node.queue, s, node.class)
  local open = study_key(s) .. ':open:' .. node.n
  local tag = task.attempt .. ':' .. task.losses .. ':' .. task.resume .. ':'
  local lo, hi = task.lo, task.hi
  local id, from = string.match(call('HGET', open, tag .. '>' .. int(lo)) or '', '^(%d+%-%d+) (%d+)$')
  if id then
    call('XDEL', stream, id)
    call('HDEL', open, tag .. '>' .. int(lo))
    lo = tonumber(from)
  end
  local next_id, upto = string.match(call('HGET', open, tag .. '<' .. int(hi)) or '', '^(%d+%-%d+) (%d+)$')
  if next_id then
    call('XDEL', stream, next_id)
    call('HDEL', open, tag .. '<' .. int(hi), tag .. '>' .. upto)
    hi = tonumber(upto)
  end
  if not id and not next_id and call('XLEN', stream) > STREAM_RANGES_MOST and call('HLEN', open) > 2 * NODE_RANGES_MOST then
    return put_loose(s, node, stream, task)
  end
  id = add_entry(s, node, stream,
    node.n .. ' ' .. int(lo) .. ' ' .. int(hi) .. ' ' .. task.attempt .. ' ' .. task.losses .. ' ' .. task.resume)
  call('HSET', open, tag .. '<' .. int(lo), id .. ' ' .. int(hi), tag .. '>' .. int(hi), id .. ' ' .. int(lo))
end
