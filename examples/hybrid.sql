-- Hybrid search: words by BM25, written in SQL, and vectors by vec_search, fused into one list.
-- Run it with: vecpipe sql examples/hybrid.sql

-- 1. Some notes of a support desk, with vectors. vec_hash_embed is lexical, but works on parts of words, so that it sees
--    through spelling and inflection where BM25 does not; an embedding model of your own sees meaning as well.
CREATE TABLE docs AS
    SELECT row_number() OVER () AS id, text, vec_hash_embed(text, 256)::FLOAT[256] AS emb
    FROM (VALUES
        ('Error E1042 means that the certificate of the mail server has expired'),
        ('Error E1043 means that the mail server refused the connection'),
        ('Renewing certificates: open the settings, choose security, upload the new file'),
        ('The mail server sends a warning a week before a certificate expires'),
        ('Invoices are sent on the first working day of the month'),
        ('To change the address on an invoice, edit the customer and send the invoice again'),
        ('A customer who has paid twice gets a refund within five days'),
        ('Refunds are paid to the account that the payment came from'),
        ('Passwords are reset by the link in the mail, which is valid for one hour'),
        ('The link to reset a password expires after one hour'),
        ('Two-factor authentication needs a phone or a security key'),
        ('Printing fails with a blank page: update the driver of the printer'),
        ('The printer in the hall takes paper of size A4 only'),
        ('Backups run every night and are kept for thirty days'),
        ('A backup is restored from the settings, under maintenance'),
        ('The database is read-only while a backup is being restored')
    ) AS texts(text);

-- 2. An inverted index: which word is in which note, and how often.
CREATE TABLE postings AS
    SELECT id, word, count(*) AS occurrences
    FROM (SELECT id, unnest(regexp_extract_all(lower(text), '[a-z0-9]+')) AS word FROM docs)
    GROUP BY id, word;

CREATE TABLE lengths AS
    SELECT id, sum(occurrences) AS words, avg(sum(occurrences)) OVER () AS mean_words, count(*) OVER () AS notes
    FROM postings GROUP BY id;

CREATE TABLE words AS
    SELECT p.word, ln(1 + (any_value(l.notes) - count(*) + 0.5) / (count(*) + 0.5)) AS idf
    FROM postings AS p JOIN lengths AS l USING (id)
    GROUP BY p.word;

-- 3. BM25 (Robertson and Zaragoza 2009) for a question, as a list of rows (query_id, id, rank, score).
CREATE MACRO bm25(question, k := 10, k1 := 1.2, b := 0.75) AS TABLE
    WITH asked AS (SELECT DISTINCT unnest(regexp_extract_all(lower(question), '[a-z0-9]+')) AS word)
    SELECT 0 AS query_id, f.id, row_number() OVER (ORDER BY f.score DESC, f.id) AS rank, f.score
    FROM (SELECT p.id, sum(w.idf * p.occurrences * (k1 + 1)
                           / (p.occurrences + k1 * (1 - b + b * l.words / l.mean_words))) AS score
          FROM asked JOIN postings AS p USING (word) JOIN words AS w USING (word) JOIN lengths AS l ON l.id = p.id
          GROUP BY p.id) AS f
    ORDER BY rank
    LIMIT k;

-- 4. The same shape from vectors.
CREATE MACRO by_vector(question, k := 10) AS TABLE
    SELECT 0 AS query_id, id, row_number() OVER (ORDER BY score DESC, id) AS rank, score
    FROM vec_search('docs', vec_hash_embed(question, 256), rerank := 'emb', k := k)
    ORDER BY rank;

-- 5. A question with a code in it: each list has a different second, and what both have found comes before it.
WITH by_word AS (FROM bm25('E1042 expired certificates')),
     near AS (FROM by_vector('E1042 expired certificates'))
SELECT f.rank, round(f.score, 4) AS score, w.rank AS rank_of_words, v.rank AS rank_of_vectors, d.text
FROM vec_fuse('by_word', 'near') AS f
JOIN docs AS d USING (id)
LEFT JOIN by_word AS w USING (id)
LEFT JOIN near AS v USING (id)
ORDER BY f.rank LIMIT 4;

-- 6. A question with a slip of the pen: no note has these words, the vectors find it all the same.
SELECT count(*) AS notes_with_the_words FROM bm25('certifcates expiring');

WITH by_word AS (FROM bm25('certifcates expiring')),
     near AS (FROM by_vector('certifcates expiring'))
SELECT f.rank, d.text FROM vec_fuse('by_word', 'near') AS f JOIN docs AS d USING (id) ORDER BY f.rank LIMIT 2;

-- 7. The scores themselves instead of ranks, each list brought to the range 0 to 1, words counting twice.
WITH by_word AS (FROM bm25('refund of an invoice paid twice')),
     near AS (FROM by_vector('refund of an invoice paid twice'))
SELECT f.rank, round(f.score, 3) AS score, d.text
FROM vec_fuse('by_word', 'near', method := 'minmax', weight_a := 2) AS f JOIN docs AS d USING (id)
ORDER BY f.rank LIMIT 3;
