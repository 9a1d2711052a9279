package staging

import (
	"embed"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/headrace/headrace/internal/pgschema"
)

// The statements of this package are in .sql files. A line "-- name: x" begins statement x. Two
// kinds of placeholders are filled here and nowhere else: {name} is a table, a list of columns or
// another piece of SQL, filled once for each Table; @name is a parameter, which the server gets as
// $1, $2, … A file that names no statement holds one, of the file's name.
//
//go:embed stage.sql promote.sql promote_insert.sql promote_rules.sql promote_judge.sql promote_suspects.sql ledger.sql reject.sql schema_change.sql schema_read.sql schema_side.sql schema_target.sql settings.sql rewrite.sql find.sql group.sql advise.sql
var sqlFiles embed.FS

var templates = loadTemplates()

var (
	piecePattern     = regexp.MustCompile(`\{[a-z_]+\}`)
	parameterPattern = regexp.MustCompile(`@[a-z_]+`)
)

// loadTemplates cuts the files into statements. Lines that hold nothing but a comment are left out.
func loadTemplates() map[string]string {
	out := map[string]string{}
	files, err := sqlFiles.ReadDir(".")
	if err != nil {
		panic(err)
	}
	for _, f := range files {
		text, err := sqlFiles.ReadFile(f.Name())
		if err != nil {
			panic(err)
		}
		name := strings.TrimSuffix(f.Name(), ".sql")
		for line := range strings.Lines(string(text)) {
			switch trimmed := strings.TrimSpace(line); {
			case strings.HasPrefix(trimmed, "-- name: "):
				name = strings.TrimPrefix(trimmed, "-- name: ")
				if _, twice := out[name]; twice {
					panic("staging: two statements are named " + name)
				}
			case trimmed == "" || strings.HasPrefix(trimmed, "--"):
			default:
				out[name] += line
			}
		}
	}
	return out
}

// statement is SQL that is ready to run, with the names of its parameters: the first is $1.
type statement struct {
	text   string
	params []string
}

// pieces are the values of {placeholders}.
type pieces map[string]string

// fill makes a statement of a template. A placeholder without a value is a mistake in this package.
func fill(name string, values pieces) statement {
	text, ok := templates[name]
	if !ok {
		panic("staging: no statement is named " + name)
	}
	var s statement
	// Parameters first: the pieces may hold the user's SQL, where @ is an operator.
	text = parameterPattern.ReplaceAllStringFunc(text, func(p string) string {
		for i, known := range s.params {
			if known == p[1:] {
				return fmt.Sprintf("$%d", i+1)
			}
		}
		s.params = append(s.params, p[1:])
		return fmt.Sprintf("$%d", len(s.params))
	})
	s.text = piecePattern.ReplaceAllStringFunc(text, func(p string) string {
		v, ok := values[p[1:len(p)-1]]
		if !ok {
			panic("staging: statement " + name + ": no value for " + p)
		}
		return v
	})
	s.text = strings.TrimSuffix(strings.TrimSpace(s.text), ";")
	return s
}

// where fills in the condition on rows, which is known only when a promotion runs.
func (s statement) where(condition string) statement {
	s.text = strings.ReplaceAll(s.text, laterCondition, condition)
	return s
}

// laterCondition marks the place in a statement where its condition on rows goes. No name can hold
// it.
const laterCondition = "\x00"

// everyRow is the condition on rows of a promotion that takes all rows of its side.
const everyRow = "true"

// args are the values of a statement's parameters, in text form. The SQL casts them.
type args map[string]string

// with binds parameters.
func (s statement) with(a args) call {
	c := call{sql: s.text, args: make([][]byte, len(s.params))}
	if len(a) != len(s.params) {
		panic(fmt.Sprintf("staging: %d values for %d parameters of %.80s", len(a), len(s.params), s.text))
	}
	for i, p := range s.params {
		v, ok := a[p]
		if !ok {
			panic("staging: no value for parameter " + p)
		}
		c.args[i] = []byte(v)
	}
	return c
}

// statements are the SQL texts of one table, made once.
type statements struct {
	side []sideStatements
	lane []laneStatements

	turn            statement
	turnAlone       statement
	readControl     statement
	lockTarget      statement
	ledgerKinds     statement
	ledgerTooOld    statement
	ledgerDelete    statement
	ledgerCorrect   statement
	ledgerVoid      statement
	ledgerBooks     statement
	ledgerStages    statement
	ledgerReplay    statement
	refersToItself  statement
	volatile        statement
	unfit           statement
	arrayAbsent     statement
	sequences       statement
	defaults        statement
	functions       statement
	readEpoch       statement
	setEpoch        statement
	rejectsByBatch  statement
	rejectedKeys    statement
	rejectsList     statement
	rejectCounts    statement
	countRejects    statement
	resolveRejects  statement
	pruneRejects    statement
	pruneLedger     statement
	replaceInto     statement // the target into itself, to be planned; empty without ConflictReplace
	guards          statement
	bookkeeping     statement
	advise          statement
	judged          statement
	failures        statement
	bulkInsert      statement // rows of a parameter, without merges
	brokenRules     statement // of rows of a parameter; empty without rules
	rowType         statement
	replayInsert    statement // the same with merges
	findID          statement
	findRejects     statement
	findCommitted   statement
	findSealed      statement
	findFloor       statement
	groupFollow     statement
	groupRegistered statement
	rejectsWhole    statement
	rejectedRecords statement
	rejectsPlaces   statement
	resolvePlaces   statement
}

// laneStatements are those that name both sides of a lane.
type laneStatements struct {
	share       statement // fails where a promoter is at work
	fullSides   statement
	flip        statement
	noteFailure statement
	noteSuccess statement
}

// sideStatements are those that name one side of the staging tables.
type sideStatements struct {
	stageLook     statement
	stageFields   statement
	stageLock     statement
	stageRegister statement
	stageRecount  statement
	copyRows      statement
	copyRejects   statement

	lock          statement
	shape         statement
	batches       statement
	counts        statement
	rejections    statement
	ledger        statement
	rejects       statement
	forget        statement
	truncate      statement
	deleteRows    statement
	deleteRefused statement
	rules         statement // empty without rules
	insert        statement
	insertNew     statement // the rows' keys are not looked up; empty unless ConflictSkip has a key
	insertYield   statement // a key that another lane writes meanwhile is left to it; empty where insertNew is
	exact         statement // each row meets the index of the key; empty without a key
	exactPlain    statement // exact without merges
	conflicts     statement // empty without a key; so are the next ones
	firstConflict statement
	conflictAt    statement
	anyDoubled    statement
	doubledOurs   statement
	keyThere      statement
	doubled       string // the query of the places of rows whose key comes twice
	takenRecords  statement
	keyMissing    statement

	share        statement // fails where a promoter is at work
	someRecords  statement
	anyAbsent    statement
	remainder    statement // how many rows are left
	probe        statement // a plain insert
	rowPlace     statement // where the target has the key of a row
	rowsOf       statement
	insertPlain  statement // insert without merges
	judgeInsert  statement
	judgeRules   statement // empty without rules
	rejectRecord statement
	postpone     statement
	resume       statement
	spans        statement
	remaining    statement
	suspects     statement

	registered    statement
	registeredAs  statement
	leftOfRecords statement
	rejectRecords statement
}

// prepare fills in all statements.
func (t *table) prepare() {
	q := &t.sql
	common := t.commonPieces()
	get := func(name string) statement { return fill(name, common) }
	q.readControl = get("read_control")
	q.turn, q.turnAlone, q.lockTarget = get("turn"), get("turn_alone"), get("lock_target")
	if t.alone() {
		q.lockTarget = get("lock_target_alone")
	}
	q.ledgerKinds, q.ledgerTooOld, q.ledgerDelete = get("ledger_kinds"), get("ledger_too_old"), get("ledger_delete")
	q.ledgerCorrect, q.ledgerVoid, q.ledgerBooks, q.ledgerReplay = get("ledger_correct"), get("ledger_void"), get("ledger_books"), get("ledger_replay")
	q.volatile, q.sequences, q.functions, q.unfit, q.defaults = get("volatile"), get("omitted_sequences"), get("called_functions"), get("unfit_target"), get("omitted_defaults")
	q.ledgerStages, q.refersToItself = get("ledger_stages"), get("refers_to_itself")
	q.readEpoch, q.setEpoch = get("read_epoch"), get("set_epoch")
	q.rejectsByBatch, q.rejectedKeys, q.rejectsList = get("rejects_by_batch"), get("rejected_keys"), get("rejects_list")
	q.rejectCounts, q.countRejects = get("reject_counts"), get("count_rejects")
	q.resolveRejects, q.pruneRejects, q.pruneLedger = get("resolve_rejects"), get("prune_rejects"), get("prune_ledger")
	q.guards, q.bookkeeping, q.judged = get("guards"), get("bookkeeping"), get("judged")
	q.advise = get("advise")
	q.groupFollow, q.groupRegistered = get("group_follow"), get("group_registered")
	q.rejectsWhole, q.rejectedRecords, q.rejectsPlaces, q.resolvePlaces = get("rejects_whole"), get("rejected_records"), get("rejects_places"), get("resolve_places")
	q.failures = get("failures")
	q.findID, q.findRejects = get("find_id"), get("find_rejects")
	q.findCommitted, q.findSealed = get("find_committed"), get("find_sealed")
	q.findFloor = get("find_floor")
	if t.cfg.Conflict == ConflictReplace {
		q.replaceInto = get("replace_into")
	}
	q.bulkInsert = get(t.insertName("array"))
	q.replayInsert = t.merged(q.bulkInsert)
	q.rowType, q.arrayAbsent = get("row_type"), get("array_absent")
	if len(t.rules) > 0 {
		q.brokenRules = get("broken_rules")
	}
	q.lane, q.side = make([]laneStatements, len(t.staging)/2), make([]sideStatements, len(t.staging))
	for l := range q.lane {
		p := maps.Clone(common)
		maps.Copy(p, pieces{"lane": strconv.Itoa(l + 1), "registry_a": t.registry[2*l], "registry_b": t.registry[2*l+1]})
		q.lane[l] = laneStatements{share: fill("share_lane", p), fullSides: fill("full_sides", p), flip: fill("flip", p),
			noteFailure: fill("note_failure", p), noteSuccess: fill("note_success", p)}
	}
	for s := range q.side {
		p := t.sidePieces(side(s), common)
		get := func(name string) statement { return fill(name, p) }
		x := &q.side[s]
		x.stageLook, x.stageFields = get("stage_look"), get("stage_fields")
		x.stageLock, x.stageRegister, x.stageRecount = get("stage_lock"), get("stage_register"), get("stage_recount")
		x.copyRows, x.copyRejects = get("copy_rows"), get("copy_rejects")
		x.lock, x.shape, x.batches = get("lock_side"), get("shape"), get("batches")
		x.counts, x.rejections, x.ledger = get("counts"), get("rejections"), get("ledger_insert")
		x.rejects, x.forget, x.truncate = get("move_rejects"), get("forget"), get("truncate")
		x.deleteRows, x.deleteRefused = get("delete_rows"), get("delete_refused")
		x.insertPlain = get(t.insertName("all"))
		x.insert = t.merged(x.insertPlain)
		x.judgeInsert = t.judgeStatement(p, "insert", t.insertName("try"))
		x.registered = get("registered")
		x.registeredAs, x.leftOfRecords, x.rejectRecords = get("registered_as"), get("left_of_records"), get("reject_records")
		x.postpone, x.resume = get("postpone_record"), get("resume_postponed")
		x.rejectRecord, x.spans, x.remaining, x.suspects = get("reject_record"), get("spans"), get("remaining"), get("suspects")
		x.share, x.someRecords = get("share_side"), get("some_records")
		x.anyAbsent, x.rowsOf = get("any_absent"), get("rows_of")
		x.remainder, x.probe, x.rowPlace = get("remainder"), get("insert_all_plain"), get("place_of_row")
		if len(t.cfg.Key) > 0 {
			x.conflicts, x.firstConflict, x.conflictAt, x.keyThere = get("conflicts"), get("first_conflict"), get("conflict_at"), get("key_there")
			x.anyDoubled, x.doubledOurs = get("any_doubled"), get("any_doubled_ours")
			x.doubled, x.takenRecords, x.keyMissing = get("doubled").text, get("taken_records"), get("key_missing")
			x.exactPlain = get("insert_exact")
			x.exact = t.merged(x.exactPlain)
			if t.cfg.Conflict == ConflictSkip {
				x.insertNew = t.merged(get("insert_new"))
				x.insertYield = t.merged(statement{text: x.insertPlain.text + "\n" + t.onConflict()})
			}
		}
		if len(t.rules) > 0 {
			x.rules = get("apply_rules")
			x.judgeRules = t.judgeStatement(p, "rule", "try_rules")
		}
	}
}

// commonPieces are the values of the placeholders that both sides share.
func (t *table) commonPieces() pieces {
	key := list("s.", t.cfg.Key)
	p := pieces{
		"target": t.target, "target_text": literal(t.target), "ledger": t.ledger, "ledger_text": literal(t.ledger), "rejects": t.rejects, "rejects_text": literal(t.rejects), "reject_counts": t.rejectCounts,
		"control": t.control, "control_text": literal(t.control), "epoch": t.epoch, "arbiter": arbiter(), "filled": filled(), "fires": fires("g.tgenabled"), "rule_fires": fires("r.ev_enabled"), "ours": fill("ours", nil).text,
		"array": fill("array", pieces{"staging_a": t.staging[sideA]}).text, "staging_a_text": literal(t.staging[sideA]),
		"registry_a": t.registry[sideA], "registry_b": t.registry[sideB],
		"columns": list("", t.colNames), "s_columns": list("s.", t.colNames), "key": list("", t.cfg.Key), "s_key": key,
		"record": colRecord, "postponed": postponedBit, "which": laterCondition, "newest": t.newestFirst(), "on_conflict": t.onConflict(),
		"key_in_target": t.keyEquals("hr_there.", "s."), "absent": t.absent(), "replaces": strconv.FormatBool(t.cfg.Conflict == ConflictReplace), "record_id": t.idSQL("s."), "row_json": t.rowSQL(),
		"batch_no": batchOf("s."), "position": posOf("s."), "spread": t.spread(),
	}
	p["sums"], p["margin"] = fill("ledger_sums", nil).text, fmt.Sprintf("interval '%d s'", int(pruneMargin.Seconds()))
	p["row_columns"], p["key_is_row"] = list("hr__row.", t.colNames), t.keyEquals("hr_there.", "hr__row.")
	p["same_as_row"] = t.same("hr__row.")
	p["target_place"], p["kept_there"] = "NULL::text", "true"
	if len(t.cfg.Key) > 0 {
		p["target_place"] = fill("target_place", p).text
	}
	if !t.mayKeepOld() {
		p["kept_there"] = "EXISTS (SELECT FROM " + t.target + " hr_there WHERE " + t.keyEquals("hr_there.", "s.") + " AND " + t.same("s.") + ")"
	}
	p["exact_conflict"] = "ON CONFLICT (" + p["key"] + ") DO NOTHING"
	if t.cfg.Conflict == ConflictReplace {
		p["exact_conflict"] = t.onConflict()
	}
	p["key_names"], p["column_names"], p["nullable_names"] = textArray(slices.Sorted(slices.Values(t.cfg.Key))), textArray(t.colNames), textArray(t.nullable)
	p["partitions"] = fill("partitions", p).text
	p["unreplaceable"] = pgschema.Unreplaceable(p["partitions"])
	p["bookkeeping"], p["unseen"] = fill("bookkeeping", p).text, fill("unseen", p).text
	p["unfit"], p["closed"] = fill("unfit", p).text, fill("closed", p).text
	p["rule_verdict"], p["rule_code"], p["rule_reason"] = t.ruleCases()
	return p
}

// judgeStatement is the statement that judges records, with the statement that tries one of them.
func (t *table) judgeStatement(p pieces, source, try string) statement {
	p = maps.Clone(p)
	maps.Copy(p, modePieces)
	p["source"], p["try_row"] = literal(source), fill(try, p).text
	p["suppressed_code"], p["suppressed_reason"] = literal(CodeSuppressed), literal(suppressedReason)
	p["row_place"], p["row_kept"], p["max_reason"] = "NULL", "true", strconv.Itoa(MaxReason)
	p["surroundings_classes"], p["surroundings_codes"] = textArray(surroundingsClasses), textArray(surroundingsCodes)
	p["perhaps_classes"], p["perhaps_codes"] = textArray(perhapsClasses), textArray(perhapsCodes)
	if len(t.cfg.Key) > 0 {
		p["row_place"] = fill("row_place", p).text
	}
	if !t.mayKeepOld() {
		p["row_kept"] = fill("row_same", p).text
	}
	p["probes"], p["probe_row"] = strconv.FormatBool(len(t.cfg.Key) > 0 && t.mayKeepOld()), fill("try_insert_plain", p).text
	p["late_conflicts"], p["late_reason"] = strconv.FormatBool(len(t.cfg.Key) > 0 && t.mayKeepOld()), literal(lateReason)
	return fill("judge", p)
}

// textArray prints names as an array for SQL.
func textArray(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = literal(n)
	}
	return "ARRAY[" + strings.Join(quoted, ", ") + "]::text[]"
}

// sidePieces adds the tables of one side.
func (t *table) sidePieces(s side, common pieces) pieces {
	p := maps.Clone(common)
	maps.Copy(p, pieces{"registry": t.registry[s], "staging": t.staging[s], "staging_text": literal(t.staging[s]), "refused": t.refused[s]})
	return p
}
