//! A shop as a SQLite database.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};

use super::world::{State, World, today};

/// Writes `world` into an empty database.
pub fn write_store(connection: &mut Connection, world: &World) -> Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(include_str!("schema.sql")).context("create the shop's tables")?;
    transaction.execute("INSERT INTO settings VALUES ('today', ?1)", [today().to_string()])?;
    {
        let mut insert = transaction.prepare("INSERT INTO customers VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        for customer in &world.customers {
            let (first, last) = (customer.first, customer.last);
            insert.execute(params![
                customer.id,
                first,
                last,
                customer.email,
                customer.city,
                customer.phone
            ])?;
        }
        let mut insert =
            transaction.prepare("INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?;
        let mut insert_shipment = transaction.prepare("INSERT INTO shipments VALUES (?1, ?2, ?3, ?4)")?;
        let mut insert_refund = transaction.prepare("INSERT INTO refunds VALUES (?1, ?2, ?3, ?4)")?;
        let text = |day: Option<chrono::NaiveDate>| day.map(|day| day.to_string());
        for order in &world.orders {
            let buyer = world.customers.get(order.buyer).context("an order without buyer")?;
            insert.execute(params![
                order.number,
                buyer.id,
                order.item,
                order.cents,
                order.state.column(),
                order.placed.to_string(),
                text(order.shipped),
                text(order.delivered),
                text(order.refunded),
                text(order.cancelled),
            ])?;
            if let Some(shipment) = &order.shipment {
                let eta = text(shipment.eta);
                insert_shipment.execute(params![order.number, shipment.carrier, shipment.status, eta])?;
            }
            if order.state == State::Refunded {
                let effect = format!("before-{}", order.number);
                insert_refund.execute(params![effect, order.number, order.cents, text(order.refunded)])?;
            }
        }
        // Ticket numbers go on from where colleagues stopped.
        transaction.execute(
            "INSERT INTO tickets VALUES (?1, 'before', 'colleague@shop.example', NULL, 'complaint')",
            [world.last_ticket],
        )?;
    }
    transaction.commit().context("write the shop")
}

/// Everything in the database as text, tables and rows in a fixed order: two databases with the same dump hold the
/// same, whichever version of SQLite wrote them.
pub fn dump(connection: &Connection) -> Result<String> {
    let mut text = String::new();
    let mut tables =
        connection.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    let tables = tables.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let tables: Vec<(String, String)> = tables.collect::<rusqlite::Result<_>>()?;
    for (table, sql) in tables {
        writeln!(text, "{sql}")?;
        let mut rows = connection.prepare(&format!("SELECT * FROM \"{table}\" ORDER BY 1, 2"))?;
        let column_count = rows.column_count();
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            for column in 0..column_count {
                match row.get_ref(column)? {
                    ValueRef::Null => text.push('|'),
                    ValueRef::Integer(integer) => write!(text, "{integer}|")?,
                    ValueRef::Real(real) => write!(text, "{real}|")?,
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                        write!(text, "{}|", String::from_utf8_lossy(bytes))?;
                    }
                }
            }
            text.push('\n');
        }
    }
    Ok(text)
}
