//! A write-ahead log for an application's own writes: payments in PostgreSQL that are neither lost nor done twice, whenever the process dies.
//!
//! ```text
//! STENO_URL=http://127.0.0.1:9600 DATABASE_URL=postgres://… cargo run --example payments -- pay order-17 4200
//! STENO_URL=http://127.0.0.1:9600 DATABASE_URL=postgres://… cargo run --example payments -- replay
//! ```
//!
//! 1. Say what you are about to write ([`Client::intend`]): it is on the sidecar's disk before you write.
//! 2. Write, under the intent's replay key, so that the same write again changes nothing (`ON CONFLICT DO NOTHING`).
//! 3. Say how it went ([`Client::resolve`]), with the audit event.
//!
//! When you start, do 2 and 3 again for what is open ([`Client::open_intents`]). A process that died before 2 writes now; one that died
//! between 2 and 3 finds the row. `--die before` and `--die after` die there, to try it.
use std::{error::Error, process::ExitCode};

use serde::{Deserialize, Serialize};
use steno_client::{Client, Event, Intent, ReplayKey};
use tokio_postgres::NoTls;

/// What is written.
#[derive(Serialize, Deserialize)]
struct Payment {
    order: String,
    cents: i64,
}

/// The label of a payment, in the table's primary key: the order is paid once, whoever tries how often.
fn label(key: &ReplayKey) -> String {
    // As JSON, so that two keys never have one label: a part may hold whatever stands between parts.
    serde_json::json!([key.env, key.slug, key.version, key.dto_type, key.entity_id]).to_string()
}

/// The write. Whether this call did it: else it was done before.
async fn insert(database: &tokio_postgres::Client, key: &ReplayKey, payment: &Payment) -> Result<bool, tokio_postgres::Error> {
    let sql = "INSERT INTO payments (replay_key, order_id, cents) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    Ok(database.execute(sql, &[&label(key), &payment.order, &payment.cents]).await? == 1)
}

async fn finish(steno: &Client, id: &str, done_now: bool, cents: i64) -> Result<(), steno_client::Error> {
    let event = Event::new("payment.insert").actor("service", "payments").metadata("cents", cents);
    let resolved = steno.resolve(id, "success", event).await?;
    println!("{id} {} {}", if done_now { "written" } else { "was written" }, resolved.status);
    Ok(())
}

async fn pay(
    steno: &Client,
    database: &tokio_postgres::Client,
    payment: Payment,
    die: Option<&str>,
) -> Result<(), Box<dyn Error>> {
    let key = ReplayKey {
        env: "demo".into(),
        slug: "shop".into(),
        version: "1".into(),
        dto_type: "Payment".into(),
        entity_id: payment.order.clone(),
    };
    let intent = Intent::new("insert", key.clone(), &payment)?;
    let opened = steno.intend(&intent).await?;
    if opened.state != "open" {
        return Err(format!("the intent {} is {} already: nothing to do", opened.intent_id, opened.state).into());
    }
    if die == Some("before") {
        std::process::abort();
    }
    let done_now = insert(database, &key, &payment).await?;
    if die == Some("after") {
        std::process::abort();
    }
    Ok(finish(steno, intent.id(), done_now, payment.cents).await?)
}

/// What to do when the application starts.
async fn replay(steno: &Client, database: &tokio_postgres::Client) -> Result<(), Box<dyn Error>> {
    let mut pages = steno.open_intents();
    while let Some(page) = pages.next().await? {
        for intent in page {
            let payment: Payment = intent.payload()?;
            let done_now = insert(database, &intent.replay_key, &payment).await?;
            finish(steno, &intent.intent_id, done_now, payment.cents).await?;
        }
    }
    Ok(())
}

async fn run() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let steno = Client::from_env()?;
    let (database, connection) = tokio_postgres::connect(&std::env::var("DATABASE_URL")?, NoTls).await?;
    tokio::spawn(connection);
    let table =
        "CREATE TABLE IF NOT EXISTS payments (replay_key text PRIMARY KEY, order_id text NOT NULL, cents bigint NOT NULL)";
    database.batch_execute(table).await?;
    match words[..] {
        ["replay"] => replay(&steno, &database).await,
        ["pay", order, cents, ref rest @ ..] => {
            let die = match rest {
                ["--die", when @ ("before" | "after")] => Some(*when),
                [] => None,
                _ => return Err("payments pay ORDER CENTS [--die before|after]".into()),
            };
            pay(&steno, &database, Payment { order: order.into(), cents: cents.parse()? }, die).await
        }
        _ => Err("payments pay ORDER CENTS [--die before|after], or payments replay".into()),
    }
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run()),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
