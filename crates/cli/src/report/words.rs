//! Every word of the reports, in both languages side by side.

use dozo_model::{DrillScope, Incident, Severity, Tier, Verdict};

/// A language of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    English,
    Japanese,
}

/// A word in English and in Japanese.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word(pub(super) &'static str, pub(super) &'static str);

impl Language {
    pub(super) fn say(self, word: Word) -> &'static str {
        match self {
            Self::English => word.0,
            Self::Japanese => word.1,
        }
    }

    /// Code for `lang`.
    pub(super) fn code(self) -> &'static str {
        self.say(Word("en", "ja"))
    }

    pub(super) fn verdict(self, verdict: Verdict) -> &'static str {
        self.say(match verdict {
            Verdict::Passed => Word("passed", "合格"),
            Verdict::Failed => Word("failed", "不合格"),
            Verdict::NotRun => Word("not run", "未実施"),
        })
    }

    pub(super) fn severity(self, severity: Severity) -> &'static str {
        self.say(match severity {
            Severity::Info => Word("note", "情報"),
            Severity::Warning => Word("warning", "警告"),
            Severity::Critical => Word("critical", "重大"),
        })
    }

    pub(super) fn tier(self, tier: Tier) -> &'static str {
        self.say(match tier {
            Tier::Daily => Word("daily", "日次"),
            Tier::Weekly => Word("weekly", "週次"),
            Tier::Monthly => Word("monthly", "月次"),
            Tier::Yearly => Word("yearly", "年次"),
        })
    }

    pub(super) fn scope(self, scope: DrillScope) -> &'static str {
        self.say(match scope {
            DrillScope::Database => Word("whole database", "データベース全体"),
            DrillScope::Tables => Word("tables", "テーブル"),
            DrillScope::Sample => Word("random sample", "無作為抽出"),
            DrillScope::Archive => Word("archived partition", "アーカイブ済みパーティション"),
            DrillScope::Duckdb => Word("DuckDB files", "DuckDB ファイル"),
            DrillScope::Files => Word("file set", "ファイル群"),
            DrillScope::Command => Word("output of a command", "コマンド出力"),
        })
    }

    pub(super) fn incident(self, incident: Incident) -> &'static str {
        self.say(match incident {
            Incident::Minor => Word("minor fault", "軽微な障害"),
            Incident::Database => Word("database failure", "データベース障害"),
            Incident::Complete => Word("complete loss", "全損"),
        })
    }

    pub(super) fn phase(self, phase: &str) -> &str {
        let word = match phase {
            "provision" => Word("provision", "準備"),
            "schema" => Word("schema", "スキーマ"),
            "fetch" => Word("fetch", "取得"),
            "load" => Word("load", "ロード"),
            "index" => Word("index", "索引作成"),
            "recover" => Word("recover", "リカバリ"),
            "verify" => Word("verify", "照合"),
            "checks" => Word("checks", "検査"),
            "teardown" => Word("teardown", "後始末"),
            "data" => Word("data", "データ"),
            "changes" => Word("changes", "変更検出"),
            "prepare" => Word("prepare", "準備"),
            "post-data" => Word("post-data", "索引と制約"),
            "commit" => Word("commit", "確定"),
            other => return other,
        };
        self.say(word)
    }

    /// Says a finding; what has no fixed words stays as the engine says it.
    pub(super) fn finding(self, text: &str) -> String {
        if self == Self::English {
            return text.to_owned();
        }
        let drill = text.strip_prefix("drill ");
        match text {
            "no backup of it was ever verified" => "一度も検証されていません".to_owned(),
            "no backup of it was ever restored as a whole in a drill" => "復旧訓練で全体が復元されたことがありません".to_owned(),
            "it has never been backed up" => "一度もバックアップされていません".to_owned(),
            _ => match drill.and_then(|rest| rest.split_once(' ')) {
                Some((name, "was never held")) => format!("訓練 {name} は一度も実施されていません"),
                Some((name, rest)) if rest.starts_with("failed") => {
                    format!("訓練 {name} は不合格です{}", &rest["failed".len()..])
                }
                Some((name, rest)) if rest.starts_with("not run") => {
                    format!("訓練 {name} は実施できませんでした{}", &rest["not run".len()..])
                }
                _ => text.to_owned(),
            },
        }
    }

    pub(super) fn kind(self, kind: &str) -> &str {
        match (self, kind) {
            (Self::Japanese, "files") => "ファイル",
            (Self::Japanese, "command") => "コマンド",
            (_, "postgres") => "Postgres",
            (_, "duckdb") => "DuckDB",
            (_, other) => other,
        }
    }

    pub(super) fn state(self, state: &str) -> &str {
        let word = match state {
            "complete" => Word("complete", "完全"),
            "suspect" => Word("suspect", "要確認"),
            "partial" => Word("partial", "一部のみ"),
            "damaged" => Word("damaged", "破損"),
            "exported" => Word("exported", "書き出し済み"),
            "proven" => Word("proven", "証明済み"),
            "detached" => Word("detached", "切り離し済み"),
            "published" => Word("published", "公開済み"),
            "dropped" => Word("dropped", "削除済み"),
            "restored" => Word("restored", "復元済み"),
            other => return other,
        };
        self.say(word)
    }
}

pub(super) const TITLE: Word = Word("Backup report", "バックアップ報告書");
pub(super) const CERTIFICATE: Word = Word("Drill certificate", "復旧訓練証明書");
pub(super) const MADE: Word = Word("made", "作成日時");
pub(super) const REPOSITORY: Word = Word("repository", "リポジトリ");
pub(super) const ALL_WELL: Word = Word("Nothing is amiss", "問題はありません");
pub(super) const ATTENTION: Word = Word("Somebody should look at this", "確認が必要です");
pub(super) const ALARM: Word = Word("Somebody must look at this now", "至急の対応が必要です");
pub(super) const FINDINGS: Word = Word("Open findings", "未解決の指摘");
pub(super) const NO_FINDINGS: Word = Word("No open finding.", "未解決の指摘はありません。");
pub(super) const SEVERITY: Word = Word("severity", "重大度");
pub(super) const SOURCE: Word = Word("source", "対象");
pub(super) const FINDING: Word = Word("finding", "内容");
pub(super) const WHOLE: Word = Word("repository", "全体");
pub(super) const SOURCES: Word = Word("Sources", "バックアップ対象");
pub(super) const KIND: Word = Word("kind", "種類");
pub(super) const NEWEST: Word = Word("newest good", "最新の正常バックアップ");
pub(super) const AGE: Word = Word("age", "経過時間");
pub(super) const VERIFIED: Word = Word("verified", "検証済み");
pub(super) const PROVEN: Word = Word("proven", "証明済み");
pub(super) const DRILLED: Word = Word("drilled", "訓練済み");
pub(super) const BACKUPS: Word = Word("backups", "世代数");
pub(super) const NEXT_DELETION: Word = Word("next deletion", "次の削除");
pub(super) const SIZE: Word = Word("size", "サイズ");
pub(super) const COVERAGE: Word = Word("Coverage calendar", "取得状況カレンダー");
pub(super) const COVERAGE_HELP: Word = Word(
    "One square a day, coloured by the longest tier that keeps a backup of that day. Pale: not verified. Bar: proven. Dot: restored in a drill.",
    "1 マスが 1 日です。色はその日のバックアップを最も長く保持する世代を表します。薄い色は未検証、下線は証明済み、点は復旧訓練済みです。",
);
pub(super) const NOT_GOOD: Word = Word("not good", "正常でない");
pub(super) const NOTHING: Word = Word("nothing", "なし");
pub(super) const UNKEPT: Word = Word("kept by no tier", "世代対象外");
pub(super) const GROWTH: Word = Word("Growth and capacity", "増加量と容量");
pub(super) const REPOSITORY_SIZE: Word = Word("Size of the repository", "リポジトリのサイズ");
pub(super) const FORECAST: Word =
    Word("Size of the repository, as the policy plays forward", "リポジトリのサイズ (方針どおりに進んだ場合の予測)");
pub(super) const PER_DAY: Word = Word("a day", "/日");
pub(super) const DISK: Word = Word("Disk of the repository", "リポジトリのディスク");
pub(super) const USED: Word = Word("in use", "使用中");
pub(super) const REACHED: Word = Word("reached on", "到達予測日");
pub(super) const LEVEL: Word = Word("level", "使用率");
pub(super) const RESERVE: Word = Word("reserve", "予備");
pub(super) const NOT_FORESEEN: Word = Word("not within ten years", "10 年以内には到達しません");
pub(super) const TOO_FEW: Word = Word("too few days to tell", "日数が足りないため予測できません");
pub(super) const ALREADY: Word = Word("reached", "到達済み");
pub(super) const REMOTE_DISK: Word =
    Word("A remote repository: its room cannot be asked.", "リモートのため、空き容量は取得できません。");
pub(super) const TABLE: Word = Word("table", "テーブル");
pub(super) const ROWS: Word = Word("rows", "行数");
pub(super) const OF_ROWS: Word = Word("rows", "行");
pub(super) const BROKEN: Word = Word("This record contradicts its chain", "この記録は連鎖と矛盾しています");
pub(super) const ROWS_PER_DAY: Word = Word("rows a day", "行/日");
pub(super) const TRENDS: Word = Word("Recovery time and recovery point", "復旧時間と復旧時点");
pub(super) const RTO_TREND: Word =
    Word("Recovery time (RTO) of each drill, in percent of its objective", "各訓練の復旧時間 (RTO): 目標に対する割合 (%)");
pub(super) const RPO_TREND: Word =
    Word("Recovery point (RPO) of each drill, in percent of its objective", "各訓練の復旧時点 (RPO): 目標に対する割合 (%)");
pub(super) const NO_DRILLS: Word =
    Word("No drill has been held yet: dozo drill --all", "復旧訓練はまだ実施されていません: dozo drill --all");
pub(super) const DRILLS: Word = Word("Drills", "復旧訓練");
pub(super) const DRILL: Word = Word("drill", "訓練");
pub(super) const NUMBER: Word = Word("no.", "番号");
pub(super) const STARTED: Word = Word("started", "開始");
pub(super) const ENDED: Word = Word("ended", "終了");
pub(super) const VERDICT: Word = Word("verdict", "判定");
pub(super) const RTO: Word = Word("RTO", "RTO");
pub(super) const RPO: Word = Word("RPO", "RPO");
pub(super) const OBJECTIVE: Word = Word("objective", "目標");
pub(super) const RESTORES: Word = Word("restores", "復元数");
pub(super) const RETENTION: Word = Word("Retention map", "保持状況");
pub(super) const RETENTION_HELP: Word = Word(
    "Backups that stand, newest on the right, on a scale that widens the last weeks; the bars are what each tier promises.",
    "現存するバックアップです (右が最新、直近を拡大)。帯は各世代が約束する保持期間です。",
);
pub(super) const NO_WAL: Word = Word("WAL windows: no WAL is archived here", "WAL の保持期間: WAL はアーカイブされていません");
pub(super) const ARCHIVES: Word = Word("Archives", "アーカイブ");
pub(super) const NO_ARCHIVES: Word = Word("Nothing is archived.", "アーカイブはありません。");
pub(super) const PARTITIONS: Word = Word("partitions", "パーティション数");
pub(super) const FROM_TO: Word = Word("from – to", "期間");
pub(super) const STATE: Word = Word("state", "状態");
pub(super) const RUNS: Word = Word("Last runs", "最近の実行");
pub(super) const TOOK: Word = Word("took", "所要時間");
pub(super) const WRITTEN: Word = Word("written", "書き込み量");
pub(super) const BOTTLENECK: Word = Word("longest stage", "最長の工程");
pub(super) const CONTACTS: Word = Word("Contacts", "連絡先");
pub(super) const WHAT: Word = Word("What was restored", "復元したもの");
pub(super) const PLACE: Word = Word("into", "復元先");
pub(super) const TAKEN: Word = Word("taken", "取得日時");
pub(super) const MANIFEST: Word = Word("SHA-256 of the manifest", "マニフェストの SHA-256");
pub(super) const FINGERPRINT: Word = Word("fingerprint of all rows", "全行のフィンガープリント");
pub(super) const EQUAL: Word = Word("compared and equal", "照合一致");
pub(super) const PHASES: Word = Word("Phases", "所要時間の内訳");
pub(super) const CHECKS: Word = Word("Checks", "検査");
pub(super) const CHECK: Word = Word("check", "項目");
pub(super) const RESULT: Word = Word("result", "結果");
pub(super) const NOT_CHECKED: Word = Word("Not checked", "検査していないもの");
pub(super) const CHANGES: Word = Word("Gone since the drill before", "前回の訓練以降に失われた定義");
pub(super) const ESTIMATE: Word = Word("estimate for the whole", "全体の推定");
pub(super) const INCIDENT: Word = Word("incident", "想定障害");
pub(super) const RUNBOOK: Word = Word("runbook", "手順書");
pub(super) const DAYS_OLD: Word = Word("days old", "日前に更新");
pub(super) const CHAIN: Word = Word("record", "記録");
pub(super) const PREVIOUS: Word = Word("record before", "直前の記録");
pub(super) const OPERATOR: Word = Word("run by", "実施者");
pub(super) const BACKUP_AGE: Word = Word("age of the backup", "バックアップの経過時間");
pub(super) const NEWEST_ROW: Word = Word("newest row", "最新の行");
pub(super) const WARNINGS: Word = Word("Warnings", "警告");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn japanese_is_japanese() {
        for word in [TITLE, FINDINGS, COVERAGE_HELP, RETENTION_HELP, NO_DRILLS, NOT_CHECKED, MANIFEST] {
            assert!(!word.1.is_ascii(), "{word:?}");
        }
        assert_eq!(Language::Japanese.verdict(Verdict::NotRun), "未実施");
        assert_eq!(Language::Japanese.finding("drill weekly was never held"), "訓練 weekly は一度も実施されていません");
        assert_eq!(Language::Japanese.finding("drill record 3: it is gone"), "drill record 3: it is gone");
        assert_eq!(Language::Japanese.finding("drill all failed: shop"), "訓練 all は不合格です: shop");
    }
}
