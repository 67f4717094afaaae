import java.io.File;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.record.FileLogInputStream;
import org.apache.kafka.common.record.FileRecords;
import org.apache.kafka.common.record.Record;
import org.apache.kafka.common.record.RecordBatch;

/** Reads the segments of a partition by Kafka's own classes, and follows their indexes; a line for each record. */
class ReadLog {
    public static void main(String[] args) throws Exception {
        File[] logs = new File(args[0]).listFiles((folder, name) -> name.endsWith(".log"));
        Arrays.sort(logs);
        for (File file : logs) {
            try (FileRecords log = FileRecords.open(file, false)) {
                long base = Long.parseLong(file.getName().substring(0, 20));
                for (RecordBatch batch : log.batches()) {
                    batch.ensureValid();
                    for (Record record : batch) {
                        record.ensureValid();
                        System.out.printf("record\t%d\t%d\t%s\t%s\t%s%n", record.offset(), record.timestamp(),
                            text(record.key()), text(record.value()), headers(record.headers()));
                    }
                }
                index(file, log, base);
                times(file, log, base);
            }
        }
    }

    /** An entry of an index names the last offset of the batch that begins at its position. */
    static void index(File file, FileRecords log, long base) throws Exception {
        ByteBuffer entries = sibling(file, ".index");
        while (entries.hasRemaining()) {
            long offset = base + entries.getInt();
            int position = entries.getInt();
            FileLogInputStream.FileChannelRecordBatch batch = log.batchesFrom(position).iterator().next();
            FileRecords.LogOffsetPosition found = log.searchForOffsetWithSize(offset, position);
            System.out.printf("index\t%d\t%b%n", offset, batch.lastOffset() == offset && found.position == position);
        }
    }

    /** No record behind the offset of an entry, up to that of the next, is later than the entry's time. */
    static void times(File file, FileRecords log, long base) throws Exception {
        ByteBuffer entries = sibling(file, ".timeindex");
        while (entries.hasRemaining()) {
            long time = entries.getLong();
            long offset = base + entries.getInt();
            FileRecords.TimestampAndOffset found = log.searchForTimestamp(time, 0, base);
            System.out.printf("time\t%d\t%b%n", time, found != null && found.offset <= offset);
        }
    }

    static ByteBuffer sibling(File file, String suffix) throws Exception {
        String name = file.getPath();
        return ByteBuffer.wrap(Files.readAllBytes(Path.of(name.substring(0, name.length() - 4) + suffix)));
    }

    static String text(ByteBuffer bytes) {
        return bytes == null ? "-" : StandardCharsets.UTF_8.decode(bytes).toString();
    }

    static String headers(Header[] headers) {
        StringBuilder out = new StringBuilder();
        for (Header header : headers) {
            out.append(header.key()).append("=").append(header.value() == null ? "-" : new String(header.value(), StandardCharsets.UTF_8)).append(";");
        }
        return out.toString();
    }
}
