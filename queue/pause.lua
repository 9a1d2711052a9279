-- Pauses the queue. Like every script that drains, it runs while Redis is at maxmemory.
needs('HSET')
checkLayout(redis.call('HGET', STAT, 'layout'))
return redis.call('HSET', STAT, 'paused', '1')
