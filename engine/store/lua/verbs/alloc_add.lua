-- alloc_add: an allocation is kept from now on, by whoever runs `mrun alloc run`.
--
-- ARGV[1] its name, [2] its terms, sealed.
-- Returns 'ok', or 'taken': there is one of that name; nothing has changed. Cost: O(1).
-- Idempotent: the very same terms are those of a call that was sent again, and get 'ok'.

function verbs.alloc_add(m, args)
  clock.check_layout(m)
  local key, now = names.alloc(m.root, args[1]), int(clock.now_ms(m))
  local terms = space.call('HGET', key, 'terms')
  if terms then return terms == args[2] and 'ok' or 'taken' end
  -- First the list: a name without an allocation is passed over by who reads it, and can be added again.
  space.call('ZADD', names.allocs(m.root), now, args[1])
  space.call('HSET', key, 'terms', args[2], 'edition', 0, 'added_at_ms', now)
  return 'ok'
end
