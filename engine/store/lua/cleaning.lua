-- The keys of a study that has ended, or was purged, go in pieces: whatever its size, a move deletes about 2,000.

-- The study's instances and the samples of instance n, as far as its plan can be read.
local function planned_size(m, st, n)
  local is_read, instance = pcall(plan.instance, m, st, n)
  return is_read and instance.size
end

local BIT_KINDS = {'done', 'bad', 'out', 'past', 'pastf', 'pastb', 'pastc'}

-- The instances from the n-th on, each from chunk c on. `why` is ended (counters stay a while) or purged (nothing does).
function work.clean(m, st, items, why, n, rough, c)
  write_study(m, st)
  local is_read, shape = pcall(plan.shape, m, st)
  rough, c = rough or rough_shape(m, st), c or 0
  local instances = is_read and shape.instances or rough[1]
  while n < instances and items > 0 do
    local last = math.floor((math.max(1, planned_size(m, st, n) or rough[2]) - 1) / CHUNK)
    local keys = c == 0 and {names.instance(m.root, st.id, n), names.ranges(m.root, st.id, n)} or {}
    while c <= last and #keys < 10 * items do
      for _, kind in ipairs(BIT_KINDS) do keys[#keys + 1] = names.bits(m.root, st.id, kind, n, c) end
      c = c + 1
    end
    for from = 1, #keys, 500 do redis.call('UNLINK', unpack(keys, from, math.min(#keys, from + 499))) end
    items = items - 1 - #keys / 10
    if c > last then n, c = n + 1, 0 end
  end
  if n < instances then
    studies.plan(m, st, 'clean', why, n, rough, c)
  else
    studies.plan(m, st, 'clean_streams', why, 0, rough)
  end
  return items - 1
end

-- The streams that a study's hash tells of, when its plan does not.
local function drop_unplanned(m, st, rough)
  for queue in string.gmatch(rough[3], '[^,]+') do
    for class = 0, rough[4] - 1 do
      redis.call('UNLINK', names.stream(m.root, queue, st.id, class))
      space.call('ZREM', names.queue(m.root, queue), st.id .. ':' .. class)
    end
  end
end

function work.clean_streams(m, st, items, why, part, rough)
  local is_read, streams = pcall(plan.streams, m, st, part)
  if is_read and streams then
    for _, pair in ipairs(streams) do
      redis.call('UNLINK', names.stream(m.root, pair[1], st.id, pair[2]))
      space.call('ZREM', names.queue(m.root, pair[1]), st.id .. ':' .. pair[2])
      items = items - 1
    end
    studies.plan(m, st, 'clean_streams', why, part + 1, rough)
    return items
  end
  if part == 0 then drop_unplanned(m, st, rough) end
  studies.plan(m, st, 'clean_bits')
  redis.call('UNLINK', names.plan(m.root, st.id), names.past(m.root, st.id))
  space.call('ZREM', names.later(m.root), st.id)
  if why == 'purged' then
    redis.call('UNLINK', names.reasons(m.root, st.id))
  else
    redis.call('EXPIRE', names.study(m.root, st.id), KEEP_S)
    redis.call('EXPIRE', names.reasons(m.root, st.id), KEEP_S)
  end
  return items - 1
end
