-- The stored plan, as far as it is in the clear. Rows are read once in a move; what does not fit raises.

local plan = {}

local function read_field(m, st, field)
  return redis.call('HGET', names.plan(m.root, st.id), field)
end

-- What must be there: a plan that lost a part ends its study.
local function must(raw)
  if not raw then error('a missing part of its plan', 0) end
  return raw
end

function plan.step(m, st, i)
  if not st.steps[i] then st.steps[i] = rows.read_step(must(read_field(m, st, 'step:' .. i))) end
  return st.steps[i]
end

-- Whether there is a step of that number: one after the last is none.
function plan.has_step(m, st, i) return i < plan.shape(m, st).steps end

-- An instance with the facts of its step, but for the terms that are its own. `waits` counts what must be complete before any
-- of its samples is put: parent instances, and parent steps as wholes (barriers).
local function make_instance(m, st, n, row)
  local step = plan.step(m, st, row.step)
  local instance = {number = n, step = row.step, queue = row.queue, each_parents = row.each_parents,
    each_parts = row.each_parts, all_parts = row.all_parts, size = step.size, has_grown = step.has_grown == 1,
    has_past = step.has_past == 1, waits = row.whole_parents + step.barriers,
    suffix = row.queue_number == 0 and '' or ':' .. row.queue_number,
    text = int(n), step_text = int(row.step), fields = {}, lo_of = {}, hi_of = {},
    hash = counters.open(m, st.id, names.instance(m.root, st.id, int(n))),
    stream = '', ranges = '', resource_class = 0, max_losses = 0, chunk = 0, delay_ms = 0, dead_flags = 0, max_fails = 0,
    is_gated = false}
  local terms = row.terms
  for at = 1, #TERMS do
    local name = TERMS[at]
    local own = terms[at]
    if own == nil then own = step[name] end
    if type(own) ~= 'number' and name ~= 'max_fails' then error('a damaged instance of its plan', 0) end
    instance[name] = own
  end
  instance.stream = names.stream(m.root, row.queue, st.id, int(instance.resource_class))
  instance.ranges = names.ranges(m.root, st.id, instance.text)
  -- Several things must agree before one of its samples is put: then a bitmap tells which have been.
  instance.is_gated = instance.waits > 0 or #row.each_parents > 1
  return instance
end

-- Instance n. `i`, if it is known, is the number of its step: then both rows are read at once.
function plan.instance(m, st, n, i)
  if st.instances[n] then return st.instances[n] end
  local raw
  if i and not st.steps[i] then
    local reply = redis.call('HMGET', names.plan(m.root, st.id), 'instance:' .. int(n), 'step:' .. int(i))
    raw = reply[1]
    st.steps[i] = rows.read_step(must(reply[2]))
  else
    raw = read_field(m, st, 'instance:' .. int(n))
  end
  st.instances[n] = make_instance(m, st, n, rows.read_instance(must(raw)))
  return st.instances[n]
end

function plan.shape(m, st)
  if not st.shape then
    st.shape = rows.read_shape(must(read_field(m, st, 'shape')))
    -- Whatever is written there: no more than there are fields.
    local most = redis.call('HLEN', names.plan(m.root, st.id))
    if st.shape.instances > most or st.shape.steps > most then error('a damaged shape of its plan', 0) end
  end
  return st.shape
end

-- A part of a list: children of an instance, or pairs of queue and class. Nil after the last one.
function plan.part(m, st, field)
  local raw = read_field(m, st, field)
  if not raw then return nil end
  local part = cmsgpack.unpack(raw)
  if type(part) ~= 'table' then error('a damaged list of its plan', 0) end
  return part
end

function plan.streams(m, st, part)
  local pairs_of = plan.part(m, st, 'streams:' .. part)
  for _, pair in ipairs(pairs_of or {}) do
    if type(pair) ~= 'table' or not fits_str(pair[1]) or not fits_whole(pair[2]) then
      error('a damaged list of its plan', 0)
    end
  end
  return pairs_of
end

-- Whether [lo, hi) are samples of instance.
function plan.has(instance, lo, hi) return lo >= 0 and lo < hi and hi <= instance.size end
