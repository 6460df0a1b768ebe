// Stands in for the native package sqlite3, which only an install script can build: tables in memory, and as much SQL as a
// client's list of tasks needs (INSERT, SELECT and UPDATE by one column).
class Database {
  constructor() {
    this.tables = new Map();
  }

  serialize(statements) {
    statements();
  }

  rows(table) {
    if (!this.tables.has(table)) this.tables.set(table, []);
    return this.tables.get(table);
  }

  run(sql, ...rest) {
    const [values, done] = split(rest);
    const inserted = /INSERT INTO (\w+) \(([^)]+)\)/.exec(sql);
    const updated = /UPDATE (\w+)\s+SET (.+?)\s+WHERE (\w+) = \?/s.exec(sql);
    let changes = 0;
    if (inserted) {
      const columns = inserted[2].split(",").map((name) => name.trim());
      this.rows(inserted[1]).push(Object.fromEntries(columns.map((name, n) => [name, values[n]])));
      changes = 1;
    } else if (updated) {
      const columns = [...updated[2].matchAll(/(\w+) = \?/g)].map((match) => match[1]);
      for (const row of this.rows(updated[1]).filter((one) => one[updated[3]] === values[columns.length])) {
        columns.forEach((name, n) => (row[name] = values[n]));
        changes += 1;
      }
    }
    queueMicrotask(() => done.call({ changes }, null));
  }

  get(sql, ...rest) {
    const [values, done] = split(rest);
    this.all(sql, values, (error, rows) => done(error, rows[0]));
  }

  all(sql, ...rest) {
    const [values, done] = split(rest);
    const [, table] = /FROM (\w+)/.exec(sql);
    const wanted = /WHERE (\w+) = \?/.exec(sql);
    const rows = this.rows(table).filter((row) => !wanted || row[wanted[1]] === values[0]);
    queueMicrotask(() => done(null, rows));
  }

  close(done) {
    done(null);
  }
}

function split(rest) {
  const done = typeof rest.at(-1) === "function" ? rest.at(-1) : () => {};
  return [Array.isArray(rest[0]) ? rest[0] : [], done];
}

module.exports = { Database };
