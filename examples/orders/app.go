package orders

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"

	"github.com/headrace/headrace/dedup"
	"github.com/headrace/headrace/lookup"
	"github.com/headrace/headrace/matview"
	"github.com/headrace/headrace/pipeline"
	"github.com/headrace/headrace/staging"
)

// Name is the usual name of the queue, and of its dedup window: they share the hash tag,
// and so the slot.
const Name = "orders"

// DedupWindow is how long an order's id makes others duplicates.
const DedupWindow = time.Hour

// App is the pipeline of the example programs, each pattern wired once, as a service would do it.
// The programs use the parts that they need.
type App struct {
	Redis    rueidis.Client
	Postgres *pgxpool.Pool

	*Producer
	Window  *dedup.Deduplicator
	Table   *staging.Table[Row]
	Signals *pipeline.Signals

	Products *lookup.Table[string, Product]
	Rates    *lookup.Table[string, Rate]
	Zips     *lookup.Table[string, Zone]

	Views   *matview.Refresher
	Rollups []matview.Rollup
}

// Open creates what is missing in Postgres and wires the pipeline whose queue has that name. It
// opens no connection of its own and closes none.
func Open(ctx context.Context, redis rueidis.Client, pg *pgxpool.Pool, name string) (*App, error) {
	return OpenAs(ctx, redis, pg, name, Options{})
}

// Options configure an App. The zero value creates what is missing.
type Options struct {
	NoCreate bool         // create nothing: the schema is there, and the role may not run DDL
	Role     staging.Role // what the program does
	// ExpectedIDs is roughly how many orders come in a [DedupWindow], 0: the default of package dedup.
	ExpectedIDs int64
	Depth       int // of the gate, 0: Depth
}

// OpenAs is Open with options.
func OpenAs(ctx context.Context, redis rueidis.Client, pg *pgxpool.Pool, name string, o Options) (a *App, err error) {
	a = &App{Redis: redis, Postgres: pg}
	if !o.NoCreate {
		if err := Setup(ctx, pg); err != nil {
			return nil, err
		}
	}
	if a.Producer, err = OpenProducer(ctx, redis, name, o.Depth); err != nil {
		return nil, err
	}
	if a.Window, err = dedup.New(ctx, redis, name, dedup.Config{Window: DedupWindow, ExpectedIDs: o.ExpectedIDs}); err != nil {
		return nil, err
	}
	if a.Signals, err = pipeline.NewSignals(redis, name); err != nil {
		return nil, err
	}
	if err := a.openLookups(ctx, redis, pg, name); err != nil {
		return nil, err
	}
	if err := a.openTable(ctx, pg, o); err != nil {
		return nil, err
	}
	if o.Role == staging.RoleWorker {
		return a, nil // it has nothing to do with the views
	}
	views := viewConfig()
	views.NoCreate = o.NoCreate
	a.Views, err = matview.New(ctx, pg, Name, views)
	return a, err
}

// viewConfig is the set of dashboard views.
func viewConfig() matview.Config {
	views := make([]matview.View, 0, 3)
	for _, v := range Views() {
		views = append(views, matview.View{Name: v.Name, SQL: v.SQL, UniqueIndex: v.Unique})
	}
	return matview.Config{Views: views, Populate: true}
}

// openTable prepares the orders table for staged loading. The roll-ups are merged from each
// promotion in its own transaction, so they are as fresh as the table itself.
func (a *App) openTable(ctx context.Context, pg *pgxpool.Pool, o Options) error {
	a.Rollups = Rollups()
	if !o.NoCreate {
		for _, r := range a.Rollups {
			if err := r.Create(ctx, pg); err != nil {
				return err
			}
		}
	}
	cfg, err := tableConfig()
	if err != nil {
		return err
	}
	cfg.NoCreate, cfg.Role = o.NoCreate, o.Role
	a.Table, err = staging.New[Row](ctx, pg, Table, cfg)
	return err
}

// tableConfig is the staged loading of the orders table.
func tableConfig() (staging.Config[Row], error) {
	list, err := matview.Merges(Rollups()...)
	if err != nil {
		return staging.Config[Row]{}, err
	}
	var merges []staging.Merge
	for _, m := range list {
		merges = append(merges, staging.Merge(m))
	}
	return staging.Config[Row]{
		Key:    []string{"order_id"},
		Merges: merges,
		Rules: []staging.Rule{{
			Code: "total_too_low", Reason: "an order of less than one cent", Where: "total_usd < 0.01",
		}},
	}, nil
}

// refreshLookups is how old the lookup tables become before one of the workers reads them again.
const refreshLookups = 10 * time.Minute

func (a *App) openLookups(ctx context.Context, redis rueidis.Client, pg *pgxpool.Pool, name string) (err error) {
	if a.Products, err = lookup.New(ctx, redis, name+"-products", lookup.Config[string, Product]{
		Load:            lookup.FromQuery[string, Product](pg, "SELECT product_id, name, category, base_price::text FROM product_catalog"),
		RefreshInterval: refreshLookups,
	}); err != nil {
		return err
	}
	if a.Rates, err = lookup.New(ctx, redis, name+"-rates", lookup.Config[string, Rate]{
		Load:            lookup.FromQuery[string, Rate](pg, "SELECT currency, per_usd::text FROM currency_rates"),
		RefreshInterval: refreshLookups,
	}); err != nil {
		return err
	}
	a.Zips, err = lookup.New(ctx, redis, name+"-zips", lookup.Config[string, Zone]{
		Load:            lookup.FromQuery[string, Zone](pg, "SELECT zip, city, state, country, time_zone, shipping_zone FROM zip_code_zones"),
		RefreshInterval: refreshLookups,
	})
	return err
}

// Ensure gives this process a snapshot of each lookup table. Only the first process of all reads
// them from Postgres.
func (a *App) Ensure(ctx context.Context) error {
	for _, ensure := range []func(context.Context) error{a.Products.Ensure, a.Rates.Ensure, a.Zips.Ensure} {
		if err := ensure(ctx); err != nil {
			return err
		}
	}
	return nil
}

// RefreshViews refreshes the dashboard views.
func (a *App) RefreshViews(ctx context.Context) error {
	_, err := a.Views.Refresh(ctx)
	return err
}

// RunLookups keeps this process' snapshots current until ctx is done, and refreshes the tables
// every ten minutes.
func (a *App) RunLookups(ctx context.Context) error {
	return pipeline.Run(ctx, a.Products, a.Rates, a.Zips)
}

// Catalog is one version of the reference data, for one batch.
func (a *App) Catalog(context.Context) (Catalog, error) {
	products, err := a.Products.Snapshot()
	if err != nil {
		return Catalog{}, fmt.Errorf("products: %w", err)
	}
	rates, err := a.Rates.Snapshot()
	if err != nil {
		return Catalog{}, fmt.Errorf("rates: %w", err)
	}
	zips, err := a.Zips.Snapshot()
	if err != nil {
		return Catalog{}, fmt.Errorf("zip codes: %w", err)
	}
	return Catalog{Products: products, Rates: rates, Zips: zips, At: time.Now()}, nil
}

// Flow is the pipeline itself: what becomes of an order between the queue and its table.
func (a *App) Flow() pipeline.Flow[Row] {
	return pipeline.Flow[Row]{
		Queue: a.Queue,
		Chain: pipeline.Then3(
			pipeline.Decode(Decode),
			pipeline.Dedup(a.Window, ID),
			pipeline.Lookup("enrich", a.Catalog, Enrich),
		),
		Table:   a.Table,
		Signals: a.Signals,
		Gate:    a.Gate,
	}
}

// RejectCode files a refused order under its code.
func (e *Invalid) RejectCode() string { return e.Code }
