#!lua flags=allow-oom
-- cancel: nothing more of a study is claimed; its running samples are stopped, or let finish.
--
-- KEYS[1] root; ARGV[1] study, [2] 1 to stop what runs, 0 to let it finish, [3] the time by the caller's words, for people.
-- Returns msgpack [status, running]: status ok | gone | ended, and the number of samples that were running.
-- Idempotent. Cost: O(1), the streams are dropped in pieces.

local s, is_kill, why = ARGV[1], ARGV[2], ARGV[3]
local study = call('HMGET', study_key(s), 'state', 'running')
if not study[1] then return cmsgpack.pack({'gone', 0}) end
if study[1] ~= 'running' and study[1] ~= 'stopping' then return cmsgpack.pack({'ended', 0}) end
if study[1] == 'running' then
  stop_study(s, 'cancelled', why, is_kill)
elseif is_kill == '1' then
  call('HSET', study_key(s), 'kill', 1)
end
plan_action(s, 'idle')
finish_move()
return cmsgpack.pack({'ok', whole(study[2])})
