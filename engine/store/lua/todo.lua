-- What a move works off before it ends, and what it leaves for others; then its counters are written.

local todo = {}

-- A study that is stopping releases nothing more, but still cleans up after itself.
local RELEASES = {settled = true, settled_by_turns = true, advance = true, complete = true, barrier = true, open = true,
  skip = true, roots = true, added = true}

local function take_piece(m, s)
  local key = names.study_todo(m.root, s)
  local raw = redis.call('LPOP', key)
  if redis.call('EXISTS', key) == 0 then space.call('ZREM', names.todo(m.root), s) end
  local words = raw and cmsgpack.unpack(raw)
  if type(words) ~= 'table' or not work[words[1]] then error('damaged work that is left', 0) end
  return {study = s, words = words}
end

-- The next piece of what earlier moves left over, if this move goes on with it. A todo that can't be read ends its study.
local function take_left(m)
  local s = m.is_resuming and space.call('ZRANGE', names.todo(m.root), 0, 0)[1]
  return s and protect(m, s, take_piece, s) or nil
end

local function do_piece(m, words, st, items)
  if RELEASES[words[1]] and studies.state(st) ~= 'running' then return items end
  return work[words[1]](m, st, items, unpack(words, 2))
end

local function work_off(m)
  local items = ITEMS
  while items > 0 do
    local piece = m.actions[m.next_action] or take_left(m)
    if not piece then return end
    if piece == m.actions[m.next_action] then m.next_action = m.next_action + 1 end
    items = protect(m, piece.study, do_piece, piece.words, studies.of(m, piece.study), items) or items - 1
  end
end

-- Every move that changes anything ends with this.
function todo.finish(m)
  work_off(m)
  for i = m.next_action, #m.actions do
    push(m, m.actions[i].study, m.actions[i].words)
    m.has_left = true
  end
  m.actions, m.next_action = {}, 1
  for s, st in pairs(m.by_study) do
    if st.hash.is_touched or next(st.instances) then protect(m, s, write_study, st) end
  end
  claims.flush(m)
  clock.flush(m)
end
