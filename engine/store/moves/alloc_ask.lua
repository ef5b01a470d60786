#!lua flags=allow-oom
-- alloc_ask: ask the keeper of an allocation for something; the last request counts.
--
-- KEYS[1] root; ARGV[1] its name, [2] pause, resume, remove, or force (remove it with the jobs that run).
-- Returns 'ok' or 'gone'. What is to be removed stays so. Idempotent. Cost: O(1).

local key = root .. 'alloc:' .. ARGV[1]
local facts = call('HMGET', key, 'terms', 'request')
if not facts[1] then return 'gone' end
local is_removing = facts[2] == 'remove' or facts[2] == 'force'
if not is_removing or ARGV[2] == 'force' then call('HSET', key, 'request', ARGV[2]) end
return 'ok'
