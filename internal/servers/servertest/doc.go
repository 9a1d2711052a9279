// Package servertest gives tests their servers. Tests never skip for want of one: they fail, and
// say the ways to get it.
//
// Redis and Postgres are the shared servers: those of REDIS_URL and DATABASE_URL (`make test`
// starts one of each for all packages), or, without these, ones that are started when the first
// test of the process asks and stopped in Main. On them every test keeps to itself: a database of
// its own, a Prefix in every key. A test that kills its server, fills it up or empties it takes
// OwnRedis or OwnPostgres.
//
//	func TestMain(m *testing.M) { servertest.Main(m) }
//
//	func TestX(t *testing.T) {
//		t.Parallel()
//		q, err := queue.New(t.Context(), servertest.Redis(t), servertest.Prefix(t), queue.Config{})
//		…
//	}
package servertest
