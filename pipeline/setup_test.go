package pipeline_test

import (
	"context"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/queue"
	"github.com/headrace/headrace/staging"
)

// connect returns clients of the servers that the tests run on, with a database and a name of their
// own. A program uses rueidis.NewClient and pgxpool.New.
func connect() (redis rueidis.Client, postgres *pgxpool.Pool, name string, cleanup func()) {
	tb, cleanup := servertest.Example("pipeline")
	return servertest.Redis(tb), servertest.Postgres(tb), servertest.Prefix(tb), cleanup
}

// connectRedis is connect for what needs no Postgres.
func connectRedis() (redis rueidis.Client, name string, cleanup func()) {
	tb, cleanup := servertest.Example("pipeline")
	return servertest.Redis(tb), servertest.Prefix(tb), cleanup
}

// A reading is "sensor value". The name of the sensor is the id of the reading.
type reading struct {
	Sensor  string `db:"sensor"`
	Celsius int32  `db:"celsius"`
}

func parseReading(payload []byte) (reading, error) {
	sensor, value, _ := strings.Cut(string(payload), " ")
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil {
		return reading{}, pipeline.Reject("bad_value", "%q is not a whole number", value)
	}
	return reading{sensor, int32(n)}, nil
}

func sensorOf(r reading) string { return r.Sensor }

// readings returns a flow of readings into a table of their own, and its queue to push to.
func readings(ctx context.Context) (flow pipeline.Flow[reading], q *queue.Queue, cleanup func()) {
	redis, postgres, name, cleanup := connect()
	q, err := queue.New(ctx, redis, name, queue.Config{})
	must(err)
	table, err := staging.New(ctx, postgres, "readings", staging.Config[reading]{Create: true, Key: []string{"sensor"}})
	must(err)
	signals, err := pipeline.NewSignals(redis, name)
	must(err)
	return pipeline.Flow[reading]{Queue: q, Table: table, Chain: pipeline.Decode(parseReading), Signals: signals}, q, cleanup
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
