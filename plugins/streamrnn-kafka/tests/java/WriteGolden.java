import java.io.File;
import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.ControlRecordType;
import org.apache.kafka.common.record.EndTransactionMarker;
import org.apache.kafka.common.record.FileRecords;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.MemoryRecordsBuilder;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.SimpleRecord;
import org.apache.kafka.common.record.TimestampType;

/** Writes a partition by Kafka's own classes, and beside it what each record holds, a line of JSON each. */
class WriteGolden {
    static final long START = 1_700_000_000_000L;
    static final long APPENDED = START + 123_456;
    static long offset = 0;
    static FileRecords log;
    static PrintWriter told;

    public static void main(String[] args) throws Exception {
        Path folder = Path.of(args[0], "golden-0");
        Files.createDirectories(folder);
        told = new PrintWriter(Path.of(args[0], "golden.jsonl").toFile(), StandardCharsets.UTF_8);
        open(folder);
        String[] codecs = {"none", "gzip", "snappy", "lz4", "zstd"};
        for (String codec : codecs) {
            plain(codec, TimestampType.CREATE_TIME, 20);
        }
        plain("none", TimestampType.LOG_APPEND_TIME, 3);
        open(folder);
        for (String codec : codecs) {
            transactional(codec, 7, "committed", 4);
            transactional(codec, 8, "aborted", 3);
            plain(codec, TimestampType.CREATE_TIME, 2);
            transactional(codec, 7, "committed", 1);
            marker(8, ControlRecordType.ABORT);
            marker(7, ControlRecordType.COMMIT);
        }
        open(folder);
        transactional("zstd", 8, "committed", 2);
        marker(8, ControlRecordType.COMMIT);
        plain("lz4", TimestampType.CREATE_TIME, 1);
        log.close();
        told.close();
    }

    static void open(Path folder) throws Exception {
        if (log != null) {
            log.close();
        }
        log = FileRecords.open(new File(folder.toFile(), String.format("%020d.log", offset)));
    }

    static SimpleRecord[] records(String kind, int n) {
        SimpleRecord[] made = new SimpleRecord[n];
        for (int i = 0; i < n; i++) {
            long at = offset + i;
            String key = at % 5 == 0 ? null : "k" + at % 3;
            String value = at % 11 == 3 ? null : "{\"x\": " + at + ", \"text\": \"" + "ä".repeat((int) (at % 9)) + "\"}";
            Header[] headers = new Header[(int) (at % 3)];
            for (int h = 0; h < headers.length; h++) {
                headers[h] = new RecordHeader("h" + h, h == 1 ? null : bytes("of " + at));
            }
            made[i] = new SimpleRecord(START + at * 10, bytes(key), bytes(value), headers);
            told.printf("{\"offset\": %d, \"timestamp\": %d, \"key\": %s, \"value\": %s, \"headers\": [%s], \"kind\": \"%s\"}%n",
                at, kind.equals("append time") ? APPENDED : START + at * 10, quoted(key), quoted(value), told(headers), kind);
        }
        return made;
    }

    static void plain(String codec, TimestampType type, int n) throws Exception {
        MemoryRecordsBuilder builder = MemoryRecords.builder(ByteBuffer.allocate(1 << 16), RecordBatch.MAGIC_VALUE_V2,
            Compression.of(codec).build(), type, offset, APPENDED);
        for (SimpleRecord record : records(type == TimestampType.CREATE_TIME ? "plain" : "append time", n)) {
            builder.append(record);
        }
        log.append(builder.build());
        offset += n;
    }

    static void transactional(String codec, long producer, String kind, int n) throws Exception {
        SimpleRecord[] made = records(kind, n);
        log.append(MemoryRecords.withTransactionalRecords(offset, Compression.of(codec).build(), producer, (short) 0, 0, 5, made));
        offset += n;
    }

    static void marker(long producer, ControlRecordType type) throws Exception {
        log.append(MemoryRecords.withEndTransactionMarker(offset, START + offset * 10, 5, producer, (short) 0,
            new EndTransactionMarker(type, 3)));
        offset += 1;
    }

    static byte[] bytes(String text) {
        return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
    }

    static String quoted(String text) {
        return text == null ? "null" : "\"" + text.replace("\"", "\\\"") + "\"";
    }

    static String told(Header[] headers) {
        StringBuilder out = new StringBuilder();
        for (Header header : headers) {
            String value = header.value() == null ? null : new String(header.value(), StandardCharsets.UTF_8);
            out.append(out.length() > 0 ? ", " : "").append("[\"").append(header.key()).append("\", ").append(quoted(value)).append("]");
        }
        return out.toString();
    }
}
