-- Retries, and when they are due.

-- How many samples of a node that were lost are ready: claims of the others are short meanwhile.
local function count_lost(s, node, task, by)
  if task.losses > 0 then count(node.key, 'lost', by) end
end

-- A retry that waits as a bit: its member in `later` is `*<when> <name>`, and `study:<s>:late:<member>` holds the bits.
local function put_late(s, node, task, delay_ms)
  local width = max(LATE_MS, floor(delay_ms / 8))
  local due_ms = (floor((now_ms() + delay_ms) / width) + 1) * width
  each_chunk(node, task, function(name, a, b)
    local member = '*' .. int(due_ms) .. ' ' .. name
    set_bits(study_key(s) .. ':late:' .. member, a, b)
    call('ZADD', study_key(s) .. ':later', int(due_ms), member)
  end)
  return due_ms
end

local function put_later(s, node, task, delay_ms)
  local later, due_ms = study_key(s) .. ':later', now_ms() + delay_ms
  if call('ZCARD', later) >= LATER_MOST then
    due_ms = put_late(s, node, task, delay_ms)
  else
    call('ZADD', later, int(due_ms), node.n .. ' ' .. int(task.lo) .. ' ' .. int(task.hi) .. ' ' .. task.attempt .. ' '
      .. task.losses .. ' ' .. task.resume)
  end
  call('ZADD', root .. 'later', 'LT', int(due_ms), s)
end

local function parse_task(text)
  local n, lo, hi, attempt, losses, resume = string.match(text or '', '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not n then return nil end
  return {node = tonumber(n), lo = tonumber(lo), hi = tonumber(hi), attempt = tonumber(attempt),
          losses = tonumber(losses), resume = tonumber(resume)}
end

local function count_due(s, node, task, samples)
  count_samples(s, node, 'retrying', -samples)
  count_samples(s, node, 'ready', samples)
  count_lost(s, node, task, samples)
end

-- Samples of a member of `later` that stands for bits are ready: its bits join the loose ones of the same name.
local function put_late_bits(s, member)
  local name = string.match(member, '^%*%d+ (.+)$')
  local task = name and parse_loose(name)
  local node = task and node_of(s, task.node)
  local late = study_key(s) .. ':late:' .. member
  local samples = call('BITCOUNT', late)
  if not node or samples == 0 then return false end
  count_due(s, node, task, samples)
  local loose = study_key(s) .. ':loose:' .. name
  if call('EXISTS', loose) == 1 then
    call('BITOP', 'OR', loose, loose, late)
    call('UNLINK', late)
  else
    call('RENAME', late, loose)
  end
  count_loose(s, node, stream_key(node.queue, s, node.class), name, samples)
  return true
end

local function put_due_range(s, member)
  local task = parse_task(member)
  local node = task and node_of(s, task.node)
  if not node then return false end
  count_due(s, node, task, task.hi - task.lo)
  put(s, node, task)
  return true
end

-- Put the retries that are due, a bounded number; returns milliseconds until the next, or -1.
local function put_due()
  local now = now_ms()
  local s = call('ZRANGE', root .. 'later', '-inf', int(now), 'BYSCORE', 'LIMIT', 0, 1)[1]
  if s then
    local later = study_key(s) .. ':later'
    -- What is stopping retries nothing more; its keys go with it.
    if call('HGET', study_key(s), 'state') ~= 'running' then
      call('ZREM', root .. 'later', s)
      return 0
    end
    for _, member in ipairs(call('ZRANGE', later, '-inf', int(now), 'BYSCORE', 'LIMIT', 0, 64)) do
      local is_bits = string.sub(member, 1, 1) == '*'
      if not (is_bits and put_late_bits or put_due_range)(s, member) then
        fail_planless(s)
        call('UNLINK', study_key(s) .. ':late:' .. member)
      end
      call('ZREM', later, member)
    end
    local next_one = call('ZRANGE', later, 0, 0, 'WITHSCORES')
    if next_one[2] then call('ZADD', root .. 'later', next_one[2], s) else call('ZREM', root .. 'later', s) end
  end
  local first = call('ZRANGE', root .. 'later', 0, 0, 'WITHSCORES')
  return first[2] and max(0, tonumber(first[2]) - now) or -1
end
