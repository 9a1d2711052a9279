// Package servertest provides servers to tests. A test without a server fails with the ways to get
// one. It is never skipped.
//
// Redis and Postgres are shared servers: those of REDIS_URL and DATABASE_URL (`make test` starts
// one of each for all packages). Without these variables they start when the first test of the
// process asks for them, and Main stops them. Each test has a database of its own and a [Prefix] in
// every key. A test that kills, fills or empties its server takes [OwnRedis] or [OwnPostgres].
//
//	func TestMain(m *testing.M) { servertest.Main(m) }
//
//	func TestX(t *testing.T) {
//		t.Parallel()
//		q, err := queue.New(t.Context(), servertest.Redis(t), servertest.Prefix(t), queue.Config{})
//		…
//	}
package servertest
