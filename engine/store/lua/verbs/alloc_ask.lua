-- alloc_ask: ask the keeper of an allocation for something; the last request counts.
--
-- ARGV[1] its name, [2] pause, resume, remove, or force (remove it with the jobs that run).
-- Returns 'ok' or 'gone'. What is to be removed stays so. Idempotent. Cost: O(1).

function verbs.alloc_ask(m, args)
  local key = names.alloc(m.root, args[1])
  local facts = space.fields(key, {'terms', 'request'})
  if not facts.terms then return 'gone' end
  local is_removing = facts.request == 'remove' or facts.request == 'force'
  if not is_removing or args[2] == 'force' then redis.call('HSET', key, 'request', args[2]) end
  return 'ok'
end
