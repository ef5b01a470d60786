#!lua
-- submit: lay parts of a study down, unseen by anyone until `commit`.
--
-- KEYS[1] root; ARGV[1] study, [2] seconds that staged keys live, [3] which hash: `plan`, `past` (what an earlier run
--   brought to its end; see the prelude), or `grown:<name>` (what changes of the plan of a study that runs), [4…] field,
--   value, … of it.
-- Returns 'staged', or 'committed' if the study already is (then nothing is written).
-- Invariant: a study that was never committed leaves only keys with a TTL. Idempotent. Cost: O(fields).
-- No allow-oom: a server that is out of memory refuses new studies, not the settling of old ones.

local s, ttl_s, key = ARGV[1], tonumber(ARGV[2]), study_key(ARGV[1]) .. ':' .. ARGV[3]
if string.sub(ARGV[3], 1, 6) ~= 'grown:' and call('EXISTS', study_key(s)) == 1 then return 'committed' end
call('HSET', key, unpack(ARGV, 4))
local does_expire, problem = pcall(call, 'EXPIRE', key, ttl_s)
if not does_expire then call('UNLINK', key); error(problem) end
return 'staged'
