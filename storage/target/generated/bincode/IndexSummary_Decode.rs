impl < __Context > :: bincode :: Decode < __Context > for IndexSummary
{
    fn decode < __D : :: bincode :: de :: Decoder < Context = __Context > >
    (decoder : & mut __D) ->core :: result :: Result < Self, :: bincode ::
    error :: DecodeError >
    {
        core :: result :: Result ::
        Ok(Self
        {
            n_series : :: bincode :: Decode :: decode(decoder) ?, n_symbols :
            :: bincode :: Decode :: decode(decoder) ?, n_names : :: bincode ::
            Decode :: decode(decoder) ?, n_pairs : :: bincode :: Decode ::
            decode(decoder) ?, size_bytes : :: bincode :: Decode ::
            decode(decoder) ?, symbol_parts : :: bincode :: Decode ::
            decode(decoder) ?,
        })
    }
} impl < '__de, __Context > :: bincode :: BorrowDecode < '__de, __Context >
for IndexSummary
{
    fn borrow_decode < __D : :: bincode :: de :: BorrowDecoder < '__de,
    Context = __Context > > (decoder : & mut __D) ->core :: result :: Result <
    Self, :: bincode :: error :: DecodeError >
    {
        core :: result :: Result ::
        Ok(Self
        {
            n_series : :: bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?, n_symbols : :: bincode :: BorrowDecode
            ::< '_, __Context >:: borrow_decode(decoder) ?, n_names : ::
            bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?, n_pairs : :: bincode :: BorrowDecode ::<
            '_, __Context >:: borrow_decode(decoder) ?, size_bytes : ::
            bincode :: BorrowDecode ::< '_, __Context >::
            borrow_decode(decoder) ?, symbol_parts : :: bincode ::
            BorrowDecode ::< '_, __Context >:: borrow_decode(decoder) ?,
        })
    }
}